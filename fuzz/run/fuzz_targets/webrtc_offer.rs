//! The target `webrtc_offer` of culvert-fuzz under libFuzzer.
#![no_main]

culvert_fuzz_run::target!("webrtc_offer");
