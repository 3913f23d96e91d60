//! The target `m7s_proxy_url` of culvert-fuzz under libFuzzer.
#![no_main]

culvert_fuzz_run::target!("m7s_proxy_url");
