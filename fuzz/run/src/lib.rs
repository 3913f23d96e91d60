//! What the programs in `fuzz_targets/` have in common.

pub use libfuzzer_sys::fuzz_target;

/// The function of this name in `culvert_fuzz::TARGETS`.
pub fn target(name: &str) -> fn(&[u8]) {
    let found = culvert_fuzz::TARGETS.iter().find(|(known, _)| *known == name);
    found.unwrap_or_else(|| panic!("no target {name} in culvert_fuzz::TARGETS")).1
}

/// The whole of a program: libFuzzer's entry, which calls the target of this name.
#[macro_export]
macro_rules! target {
    ($name:literal) => {
        static TARGET: std::sync::LazyLock<fn(&[u8])> = std::sync::LazyLock::new(|| $crate::target($name));
        $crate::fuzz_target!(|data: &[u8]| (*TARGET)(data));
    };
}
