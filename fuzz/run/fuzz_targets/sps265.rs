//! The target `sps265` of culvert-fuzz under libFuzzer.
#![no_main]

culvert_fuzz_run::target!("sps265");
