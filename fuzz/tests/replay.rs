//! The corpora on stable Rust: every seed as it is, cut off at every length, and with single bits turned over. What a
//! fuzzer found stays here for good: put its file into `corpus/<target>/` and it is a test.

use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use culvert_fuzz::TARGETS;
use culvert_fuzz::split::{Random, hash};

/// Most lengths that one seed is cut at; a longer seed is cut at so many, evenly spread.
const MAX_CUTS: usize = 1024;
/// Bits that are turned over, each in a copy of its own.
const FLIPS: usize = 200;

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")
}

fn names(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let name = |entry: std::io::Result<fs::DirEntry>| {
        entry.expect("the folder can be read to its end").file_name().into_string().expect("our file names are UTF-8")
    };
    entries.map(name).collect()
}

/// Runs the target; a failure says with which seed, how changed, and leaves the very bytes behind as a file.
fn run(target: &str, function: fn(&[u8]), data: &[u8], what: &dyn Fn() -> String) {
    if catch_unwind(AssertUnwindSafe(|| function(data))).is_err() {
        let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{target}-{:016x}", hash(data)));
        fs::write(&kept, data).expect("cargo made the folder");
        panic!("{target} fails on {}; its bytes are in {}", what(), kept.display());
    }
}

fn replay(target: &str) {
    let (_, function) = TARGETS.iter().find(|(name, _)| *name == target).expect("another test compares the names");
    let folder = corpus().join(target);
    run(target, *function, &[], &|| "nothing at all".to_owned());
    for name in names(&folder) {
        let seed = fs::read(folder.join(&name)).expect("a seed is a file");
        run(target, *function, &seed, &|| name.clone());
        let cuts = seed.len().min(MAX_CUTS);
        for cut in 0..cuts {
            let length = cut * seed.len() / cuts;
            run(target, *function, &seed[..length], &|| format!("{name} cut at {length}"));
        }
        let mut random = Random(hash(&seed));
        for _ in 0..if seed.is_empty() { 0 } else { FLIPS } {
            let (at, bit) = (random.below(seed.len()), random.below(8));
            let mut turned = seed.clone();
            turned[at] ^= 1 << bit;
            run(target, *function, &turned, &|| format!("{name} with bit {bit} of byte {at} turned over"));
        }
    }
}

/// A test for each target, so that they run side by side and are told apart.
macro_rules! replays {
    ($($target:ident)*) => {
        $(#[test] fn $target() { replay(stringify!($target)); })*

        #[test]
        fn every_target_has_a_test_here_seeds_and_a_program() {
            let tested = BTreeSet::from([$(stringify!($target).to_owned()),*]);
            let known: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
            assert_eq!(tested, known);
            assert_eq!(names(&corpus()), known);
            for target in &known {
                assert!(!names(&corpus().join(target)).is_empty(), "{target} has no seeds");
            }
            let programs: BTreeSet<String> = names(&Path::new(env!("CARGO_MANIFEST_DIR")).join("run/fuzz_targets"))
                .iter()
                .map(|file| file.trim_end_matches(".rs").to_owned())
                .collect();
            assert_eq!(programs, known);
        }
    };
}

replays! {
    amf0 annexb config_file config_records door_sniffer flv frames m7s_control m7s_doubled m7s_proxy_url mp4 relay rtcp rtmp_chunks rtmp_handshake rtmp_session rtp_depacketise rtp_round_trip rtsp_headers rtsp_messages sdp sps264 sps265 stun ts webrtc_offer
}
