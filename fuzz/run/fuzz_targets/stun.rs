//! The target `stun` of culvert-fuzz under libFuzzer.
#![no_main]

culvert_fuzz_run::target!("stun");
