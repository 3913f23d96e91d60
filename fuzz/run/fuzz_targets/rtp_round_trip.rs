//! The target `rtp_round_trip` of culvert-fuzz under libFuzzer.
#![no_main]

culvert_fuzz_run::target!("rtp_round_trip");
