//! The target `config_file` of culvert-fuzz under libFuzzer.
#![no_main]

culvert_fuzz_run::target!("config_file");
