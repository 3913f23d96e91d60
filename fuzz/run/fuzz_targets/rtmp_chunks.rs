//! The target `rtmp_chunks` of culvert-fuzz under libFuzzer.
#![no_main]

culvert_fuzz_run::target!("rtmp_chunks");
