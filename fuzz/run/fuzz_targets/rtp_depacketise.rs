//! The target `rtp_depacketise` of culvert-fuzz under libFuzzer.
#![no_main]

culvert_fuzz_run::target!("rtp_depacketise");
