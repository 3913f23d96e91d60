//! The target `amf0` of culvert-fuzz under libFuzzer.
#![no_main]

culvert_fuzz_run::target!("amf0");
