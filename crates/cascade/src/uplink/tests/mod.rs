//! What weak uplinks do to a stream of 2 Mbit/s, measured at the reader ([`sim`]), and the rules one by one ([`rules`]).
//!
//! In every run each frame that arrives can be decoded; [`sim::run`] sees to that. `--nocapture` prints the figures.

mod rules;
mod sim;

use sim::{Camera, Class, Network, Outcome, run};

/// Prints what is worth knowing of a run in which the uplink was slow between two times.
fn shown(name: &str, outcome: &Outcome, from: u64, to: u64) {
    let worst = |class| outcome.worst_ms(class);
    let arrived = |class| outcome.arrived(class, from, to);
    println!(
        "{name}: worst ms key {} inter {} disposable {} sound {}; of {} ms arrived key {} inter {} sound {}; whole after {} GOPs; \
         most in flight before {}, from 2 s after {}; {:?}",
        worst(Class::Key),
        worst(Class::Inter),
        worst(Class::Disposable),
        worst(Class::Sound),
        to - from,
        arrived(Class::Key),
        arrived(Class::Inter),
        arrived(Class::Sound),
        outcome.gops_until_whole(to),
        outcome.most_in_flight(0, from),
        outcome.most_in_flight(from + 2_000, to),
        outcome.report,
    );
}

/// 8 Mbit/s, then 200 kbit/s for 20 s, then 8 Mbit/s again.
fn collapsed(name: &str, camera: &Camera, from: u64) -> Outcome {
    let outcome = run(camera, &Network::collapse(from, from + 20_000), from + 50_000);
    shown(name, &outcome, from, from + 20_000);
    assert_eq!(outcome.lost(0, from), 0, "nothing is left out before");
    assert!(outcome.gops_until_whole(from + 20_000) <= 2);
    assert!(outcome.most_in_flight(from + 2_000, from + 20_000) <= 40 << 10);
    // At 25 kB/s a control request that comes now waits for a second behind this.
    assert!(outcome.most_backlog(from + 2_000, from + 20_000) <= 25_000);
    outcome
}

#[test]
fn a_collapse_adds_two_seconds_at_most_and_is_over_within_two_gops() {
    // A second of places within the GOP, in steps of less than two frames.
    for from in (10_000..11_000).step_by(55) {
        let outcome = collapsed(&format!("collapse at {from}"), &Camera::default(), from);
        assert!(outcome.worst_of_all_ms() <= 2_000, "{} ms", outcome.worst_of_all_ms());
        assert!(outcome.arrived(Class::Key, from, from + 20_000) >= 3, "some pictures come");
        // 46.9 a second; sound goes first, and has what it needs.
        assert!(outcome.arrived(Class::Sound, from, from + 20_000) >= 910);
        assert!(outcome.gaps > 0 && outcome.report.frames >= outcome.gaps);
        assert!(outcome.reports.len() <= 31, "once a second at most");
        assert!(!outcome.reports.last().unwrap().keys_only);
    }
}

#[test]
fn long_gops_video_alone_and_sound_alone_keep_the_promise_too() {
    for (gop, from) in [(60, 20_000), (60, 20_400), (300, 20_000), (300, 20_400)] {
        let outcome = collapsed(&format!("GOP of {} s", gop / 30), &Camera { gop, ..Camera::default() }, from);
        assert!(outcome.worst_of_all_ms() <= 2_000, "{} ms", outcome.worst_of_all_ms());
    }
    let outcome = collapsed("video only", &Camera { sound: false, ..Camera::default() }, 20_000);
    assert!(outcome.worst_of_all_ms() <= 2_000 && outcome.arrived(Class::Key, 20_000, 40_000) >= 8);

    // Sound needs 150 kbit/s and gets 80.
    let rates = vec![(0, 1e6), (20_000, 10_000.0), (40_000, 1e6)];
    let camera = Camera { video: false, ..Camera::default() };
    let outcome = run(&camera, &Network { rates, ..Network::default() }, 60_000);
    shown("sound only", &outcome, 20_000, 40_000);
    assert!(outcome.worst_of_all_ms() <= 2_000 && outcome.arrived(Class::Sound, 20_000, 40_000) >= 450);
    assert_eq!((outcome.lost(0, 20_000), outcome.lost(42_000, 60_000)), (0, 0));
}

#[test]
fn a_path_that_carries_the_stream_loses_nothing_however_long_it_is_and_however_it_jitters() {
    for (delay_ms, jitter_ms) in
        [(0, 0), (20, 0), (20, 50), (20, 150), (100, 0), (300, 0), (300, 100), (1_000, 0), (1_000, 200)]
    {
        for seed in [1, 2] {
            let network = Network { delay_ms, jitter_ms, seed, ..Network::default() };
            let outcome = run(&Camera::default(), &network, 30_000);
            shown(&format!("{delay_ms} ms one way, up to {jitter_ms} ms more"), &outcome, 10_000, 20_000);
            assert_eq!(outcome.report.frames + outcome.report.disposable, 0);
            assert_eq!(outcome.lost(0, 30_000), 0);
        }
    }
    // 8 Mbit/s with key frames of 300 kB over 40 Mbit/s.
    let large = Camera { key_bytes: 300_000, inter_bytes: 25_000, ..Camera::default() };
    let outcome = run(&large, &Network { rates: vec![(0, 5e6)], ..Network::default() }, 30_000);
    shown("8 Mbit/s", &outcome, 10_000, 20_000);
    assert_eq!(outcome.lost(0, 30_000), 0);
}

#[test]
fn on_long_paths_a_collapse_is_noticed_later_and_recovered_from_all_the_same() {
    for (delay_ms, jitter_ms) in [(50, 30), (100, 30), (300, 0)] {
        let network = Network { delay_ms, jitter_ms, ..Network::collapse(20_000, 50_000) };
        let outcome = run(&Camera::default(), &network, 70_000);
        shown(&format!("collapse, {delay_ms} ms one way, up to {jitter_ms} ms more"), &outcome, 20_000, 50_000);
        assert!(outcome.gops_until_whole(50_000) <= 2);
        // What was under way when it collapsed is late by as much; what came later is not.
        let later = outcome.fates.iter().filter(|fate| (28_000..50_000).contains(&fate.made_ms));
        assert!(later.filter_map(sim::Fate::latency_ms).all(|ms| ms <= 2_000 + 2 * delay_ms));
    }
}

#[test]
fn a_start_on_a_slow_uplink_is_in_time_from_the_first_frame() {
    let outcome = run(&Camera::default(), &Network { rates: vec![(0, 25_000.0)], ..Network::default() }, 30_000);
    shown("always 200 kbit/s", &outcome, 1, 27_000);
    assert!(outcome.worst_of_all_ms() <= 2_000 && outcome.arrived(Class::Key, 0, 27_000) >= 3);
    assert!(outcome.most_in_flight(0, 30_000) <= 40 << 10);
}

#[test]
fn disposable_frames_go_first_and_alone_where_that_is_enough() {
    let camera = Camera { b_frames: true, ..Camera::default() };
    let outcome = run(&camera, &Network { rates: vec![(0, 225_000.0)], ..Network::default() }, 40_000);
    shown("1.8 Mbit/s", &outcome, 5_000, 35_000);
    assert!(outcome.report.disposable > 50);
    assert_eq!((outcome.report.frames, outcome.gaps), (0, 0));
}

#[test]
fn key_frames_too_large_for_the_uplink_are_left_out_and_probes_find_its_end() {
    let camera = Camera { key_bytes: 100_000, inter_bytes: 5_000, ..Camera::default() };
    // One key frame is under way when it happens.
    let outcome = collapsed("large key frames", &camera, 20_000);
    let later = outcome.fates.iter().filter(|fate| fate.made_ms > 21_000);
    assert!(later.filter_map(sim::Fate::latency_ms).all(|ms| ms <= 2_000));
}

#[test]
fn a_path_that_stands_still_fills_no_memory_and_goes_on_within_two_gops() {
    // `run` bounds what waits.
    let rates = vec![(0, 1e6), (20_000, 0.0), (50_000, 1e6)];
    let outcome = run(&Camera::default(), &Network { rates, ..Network::default() }, 70_000);
    shown("nothing for 30 s", &outcome, 20_000, 50_000);
    assert!(outcome.gops_until_whole(50_000) <= 2);
}

#[test]
fn without_acknowledgements_age_alone_decides() {
    let network = Network { acks: false, ..Network::collapse(20_000, 50_000) };
    let outcome = run(&Camera::default(), &network, 80_000);
    shown("no acknowledgements", &outcome, 20_000, 50_000);
    assert_eq!(outcome.lost(0, 20_000), 0);
    assert!(outcome.gops_until_whole(50_000) <= 2);
    // The network's buffer, and the budget.
    assert!(outcome.worst_of_all_ms() <= 5_300 + 2_000 + 1_750);
}
