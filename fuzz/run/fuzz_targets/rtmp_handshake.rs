//! The target `rtmp_handshake` of culvert-fuzz under libFuzzer.
#![no_main]

culvert_fuzz_run::target!("rtmp_handshake");
