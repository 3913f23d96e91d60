//! The target `rtmp_session` of culvert-fuzz under libFuzzer.
#![no_main]

culvert_fuzz_run::target!("rtmp_session");
