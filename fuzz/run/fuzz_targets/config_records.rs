//! The target `config_records` of culvert-fuzz under libFuzzer.
#![no_main]

culvert_fuzz_run::target!("config_records");
