//! The target `sps264` of culvert-fuzz under libFuzzer.
#![no_main]

culvert_fuzz_run::target!("sps264");
