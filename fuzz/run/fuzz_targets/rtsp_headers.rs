//! The target `rtsp_headers` of culvert-fuzz under libFuzzer.
#![no_main]

culvert_fuzz_run::target!("rtsp_headers");
