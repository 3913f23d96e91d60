//! The target `rtsp_messages` of culvert-fuzz under libFuzzer.
#![no_main]

culvert_fuzz_run::target!("rtsp_messages");
