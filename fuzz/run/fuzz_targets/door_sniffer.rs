//! The target `door_sniffer` of culvert-fuzz under libFuzzer.
#![no_main]

culvert_fuzz_run::target!("door_sniffer");
