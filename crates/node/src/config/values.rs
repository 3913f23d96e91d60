//! Leaf values of the configuration that are written as text with a unit: durations, sizes, counts; and the one way
//! in which any leaf is read from text, so that its fault carries the place of the value.
#![deny(clippy::indexing_slicing)]

use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};

/// A value that is written as one scalar. `no` is a sentence for the person who wrote it; it must not repeat what
/// could be a secret.
pub(super) trait FromText: Sized {
    fn from_text(text: &str) -> Result<Self, String>;
}

/// Reads a [`FromText`] leaf; to be used as `deserialize_with` for types that are not ours.
pub(super) fn leaf<'de, D: Deserializer<'de>, T: FromText>(from: D) -> Result<T, D::Error> {
    struct Text<T>(PhantomData<T>);
    impl<T: FromText> Visitor<'_> for Text<T> {
        type Value = T;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a single value")
        }
        fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
            T::from_text(text).map_err(E::custom)
        }
    }
    from.deserialize_str(Text(PhantomData))
}

/// A section that is there but empty (`limits:` with all of its lines commented out) is the default section.
pub(super) fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(from: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(from)?.unwrap_or_default())
}

/// The same for a value that may be absent, of a type that is not ours.
pub(super) fn optional_leaf<'de, D: Deserializer<'de>, T: FromText>(from: D) -> Result<Option<T>, D::Error> {
    struct Leaf<T>(T);
    impl<'de, T: FromText> Deserialize<'de> for Leaf<T> {
        fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Leaf<T>, D::Error> {
            leaf(from).map(Leaf)
        }
    }
    Ok(Option::<Leaf<T>>::deserialize(from)?.map(|leaf| leaf.0))
}

/// Writes a value that may be absent, of a type that is not ours, as it is shown.
pub(super) fn optional_shown<S: Serializer, T: fmt::Display>(value: &Option<T>, to: S) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => to.collect_str(value),
        None => to.serialize_none(),
    }
}

/// `Deserialize` by [`FromText`].
macro_rules! leaf_by_text {
    ($($name:ty),+) => {$(
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                $crate::config::values::leaf(from)
            }
        }
    )+};
}
pub(super) use leaf_by_text;

/// A duration such as `10s`, `200ms`, `1m`, `2h`, between `MIN` and `MAX` milliseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Period<const MIN: u64, const MAX: u64>(u64);

impl<const MIN: u64, const MAX: u64> Period<MIN, MAX> {
    /// From milliseconds; clamped to the bounds.
    pub const fn from_millis(millis: u64) -> Self {
        Self(clamp(millis, MIN, MAX))
    }

    /// The duration.
    pub const fn get(self) -> Duration {
        Duration::from_millis(self.0)
    }
}

/// What units a duration may have, in milliseconds, biggest first.
const PERIOD_UNITS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

impl<const MIN: u64, const MAX: u64> FromText for Period<MIN, MAX> {
    fn from_text(text: &str) -> Result<Self, String> {
        let how = "a duration is a whole number and one of ms, s, m, h, as in 10s or 200ms";
        let millis = number_and_unit(text, &PERIOD_UNITS, how)?;
        if (MIN..=MAX).contains(&millis) {
            return Ok(Self(millis));
        }
        let (min, max) = (Self(MIN), Self(MAX));
        Err(format!("{} is out of range; here a duration is between {min} and {max}", text.trim()))
    }
}

impl<const MIN: u64, const MAX: u64> fmt::Display for Period<MIN, MAX> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return f.write_str("0s");
        }
        write_in_units(f, self.0, &PERIOD_UNITS)
    }
}

/// A number of bytes such as `32MiB`, `64KiB` or `1500B`, between `MIN` and `MAX` bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Size<const MIN: u64, const MAX: u64>(u64);

impl<const MIN: u64, const MAX: u64> Size<MIN, MAX> {
    /// From bytes; clamped to the bounds.
    pub const fn from_bytes(bytes: u64) -> Self {
        Self(clamp(bytes, MIN, MAX))
    }

    /// In bytes.
    pub const fn get(self) -> u64 {
        self.0
    }
}

/// What units a size may have, in bytes, biggest first.
const SIZE_UNITS: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

impl<const MIN: u64, const MAX: u64> FromText for Size<MIN, MAX> {
    fn from_text(text: &str) -> Result<Self, String> {
        let how = "a size is a whole number and one of B, KiB, MiB, GiB, as in 32MiB";
        let bytes = number_and_unit(text, &SIZE_UNITS, how)?;
        if (MIN..=MAX).contains(&bytes) {
            return Ok(Self(bytes));
        }
        let (min, max) = (Self(MIN), Self(MAX));
        Err(format!("{} is out of range; here a size is between {min} and {max}", text.trim()))
    }
}

impl<const MIN: u64, const MAX: u64> fmt::Display for Size<MIN, MAX> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return f.write_str("0B");
        }
        write_in_units(f, self.0, &SIZE_UNITS)
    }
}

/// A number of things, between `MIN` and `MAX`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Count<const MIN: u64, const MAX: u64>(u64);

impl<const MIN: u64, const MAX: u64> Count<MIN, MAX> {
    /// From a number; clamped to the bounds.
    pub const fn new(count: u64) -> Self {
        Self(clamp(count, MIN, MAX))
    }

    /// The number.
    pub fn get(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl<const MIN: u64, const MAX: u64> FromText for Count<MIN, MAX> {
    fn from_text(text: &str) -> Result<Self, String> {
        let digits = text.trim();
        let no = || format!("{} is not a whole number between {MIN} and {MAX}", shown(digits));
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Err(no());
        }
        let count = digits.parse().map_err(|_| no())?;
        if (MIN..=MAX).contains(&count) { Ok(Self(count)) } else { Err(no()) }
    }
}

impl<const MIN: u64, const MAX: u64> Serialize for Count<MIN, MAX> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(self.0)
    }
}

macro_rules! bounded_leaf {
    ($name:ident) => {
        impl<'de, const MIN: u64, const MAX: u64> Deserialize<'de> for $name<MIN, MAX> {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                leaf(from)
            }
        }
    };
}
bounded_leaf!(Period);
bounded_leaf!(Size);
bounded_leaf!(Count);

impl<const MIN: u64, const MAX: u64> Serialize for Period<MIN, MAX> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<const MIN: u64, const MAX: u64> Serialize for Size<MIN, MAX> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

const fn clamp(value: u64, min: u64, max: u64) -> u64 {
    if value < min {
        min
    } else if value > max {
        max
    } else {
        value
    }
}

fn number_and_unit(text: &str, units: &[(&str, u64)], how: &str) -> Result<u64, String> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    if !digits.is_empty() && unit.is_empty() {
        return Err(format!("{} has no unit; {how}", shown(text)));
    }
    let factor = units.iter().find(|(name, _)| *name == unit.trim_start()).map(|(_, factor)| *factor);
    let (Ok(number), Some(factor)) = (digits.parse::<u64>(), factor) else {
        return Err(format!("{} is not understood; {how}", shown(text)));
    };
    number.checked_mul(factor).ok_or_else(|| format!("{} is too big; {how}", shown(text)))
}

/// A value in a message: short, on one line.
pub(super) fn shown(text: &str) -> String {
    /// More would hide the sentence around it.
    const MOST: usize = 40;
    if text.chars().count() <= MOST {
        return format!("{text:?}");
    }
    format!("{:?}...", text.chars().take(MOST).collect::<String>())
}

fn write_in_units(f: &mut fmt::Formatter<'_>, value: u64, units: &[(&str, u64)]) -> fmt::Result {
    let whole = units.iter().find(|(_, factor)| value.is_multiple_of(*factor));
    let (unit, factor) = whole.expect("the last unit is one");
    write!(f, "{}{unit}", value / factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    type Wait = Period<100, 600_000>;
    type Bytes = Size<1024, { 1 << 30 }>;

    #[test]
    fn durations_have_a_unit_and_print_as_they_are_read() {
        for text in ["200ms", "10s", "1m", "1500ms", "10m"] {
            assert_eq!(Wait::from_text(text).map(|p| p.to_string()), Ok(text.to_string()));
        }
        assert_eq!(Wait::from_text("60s").map(|p| p.to_string()), Ok("1m".to_string()));
        assert_eq!(Wait::from_text("2 s").map(Wait::get), Ok(Duration::from_secs(2)));
        assert_eq!(Period::<0, 10>::from_text("0s").map(|p| p.to_string()), Ok("0s".to_string()));
    }

    #[test]
    fn a_wrong_duration_says_what_would_be_right() {
        for (text, start) in [
            ("10", "\"10\" has no unit; a duration is a whole number and one of ms, s, m, h"),
            ("1.5s", "\"1.5s\" is not understood; "),
            ("-1s", "\"-1s\" is not understood; "),
            ("ten", "\"ten\" is not understood; "),
            ("", "\"\" is not understood; "),
            ("5ms", "5ms is out of range; here a duration is between 100ms and 10m"),
            ("1h", "1h is out of range; "),
            ("99999999999999999999s", "\"99999999999999999999s\" is not understood; "),
            ("18446744073709551615h", "\"18446744073709551615h\" is too big; "),
        ] {
            let fault = Wait::from_text(text).unwrap_err();
            assert!(fault.starts_with(start), "{text}: {fault}");
        }
    }

    #[test]
    fn sizes_have_a_unit_and_bounds() {
        assert_eq!(Bytes::from_text("32MiB").map(Bytes::get), Ok(32 << 20));
        assert_eq!(Bytes::from_text("1500B").map(|s| s.to_string()), Ok("1500B".to_string()));
        let fault = Bytes::from_text("32MB").unwrap_err();
        assert_eq!(
            fault,
            "\"32MB\" is not understood; a size is a whole number and one of B, KiB, MiB, GiB, as in 32MiB"
        );
        let fault = Bytes::from_text("2GiB").unwrap_err();
        assert_eq!(fault, "2GiB is out of range; here a size is between 1KiB and 1GiB");
    }

    #[test]
    fn counts_are_plain_whole_numbers() {
        assert_eq!(Count::<1, 100>::from_text("64").map(Count::get), Ok(64));
        for text in ["0", "101", "-1", "+5", "1.0", "", "many", "99999999999999999999"] {
            let fault = Count::<1, 100>::from_text(text).unwrap_err();
            assert!(fault.ends_with("is not a whole number between 1 and 100"), "{fault}");
        }
    }
}
