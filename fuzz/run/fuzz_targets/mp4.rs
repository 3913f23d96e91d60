//! The target `mp4` of culvert-fuzz under libFuzzer.
#![no_main]

culvert_fuzz_run::target!("mp4");
