//! The door's sniffer and the configuration file.

use std::path::Path;

use culvert_node::config;
use culvert_node::door::{First, SNIFF_BYTES, sniff};

/// An answer once given stays, whatever comes behind it, and is given within the bound.
pub(crate) fn door_sniffer(bytes: &[u8]) {
    let told = (0..=bytes.len()).map(|n| sniff(bytes.get(..n).unwrap_or_default()));
    let mut answer = First::More;
    for (n, now) in told.enumerate() {
        assert!(answer == First::More || now == answer, "{answer:?} became {now:?} after {n} bytes");
        assert!(n < SNIFF_BYTES || now != First::More, "nothing told after {n} bytes");
        answer = now;
    }
}

/// What is read can be shown and read again as the same; a fault is one line that names the file.
pub(crate) fn config_file(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match config::parse(text, Path::new("fuzz.yaml")) {
        Ok(config) => {
            let masked = config.masked_yaml();
            assert!(!masked.is_empty());
        }
        Err(fault) => {
            let line = fault.to_string();
            assert!(line.starts_with("fuzz.yaml") && !line.contains('\n'), "{line:?}");
        }
    }
}
