//! The target `relay` of culvert-fuzz under libFuzzer.
#![no_main]

culvert_fuzz_run::target!("relay");
