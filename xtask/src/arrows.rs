//! Which package of ours may use which (DESIGN.md section 2): the left is used by the right, and nothing points back.
//!
//! ```text
//! media <- formats <- protocols/* <- node        hub <- cascade <- m7s <- node
//! media <- hub     <- protocols/* <- node        link <- cascade
//! net   <- protocols/*, link, m7s, node, bench
//! ```
//!
//! It looks at direct edges between workspace members only; what comes from outside is for deny.toml.

use std::fmt;

use serde_json::Value;

/// A folder of the house, for which a rule of its own holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Room {
    /// The words.
    Media,
    /// Frames to bytes.
    Formats,
    /// Sockets, TLS, WebSocket framing.
    Net,
    /// Streams by name.
    Hub,
    /// HTTP/2 turned round.
    Link,
    /// Platforms.
    Cascade,
    /// Old peers.
    M7s,
    /// The simulated world, for tests only.
    Sim,
    /// The program.
    Node,
    /// A folder in `protocols/`.
    Protocol,
    /// The load generator.
    Bench,
    /// Whole nodes in one process.
    Tests,
    /// A target per parser.
    Fuzz,
    /// This package.
    Xtask,
    /// A folder that this table does not know yet.
    Unknown,
}

impl Room {
    /// By the package's folder, relative to the workspace.
    fn of(folder: &str) -> Room {
        match folder {
            "crates/media" => Room::Media,
            "crates/formats" => Room::Formats,
            "crates/net" => Room::Net,
            "crates/hub" => Room::Hub,
            "crates/link" => Room::Link,
            "crates/cascade" => Room::Cascade,
            "crates/m7s" => Room::M7s,
            "crates/sim" => Room::Sim,
            "crates/node" => Room::Node,
            "bench" => Room::Bench,
            "tests" => Room::Tests,
            "fuzz" => Room::Fuzz,
            "xtask" => Room::Xtask,
            other if other.starts_with("protocols/") => Room::Protocol,
            _ => Room::Unknown,
        }
    }

    /// What this room's packages may use.
    fn may_use(&self) -> &'static [Room] {
        use Room::{Bench, Cascade, Formats, Fuzz, Hub, Link, M7s, Media, Net, Node, Protocol, Sim, Tests, Xtask};
        match self {
            Media | Net | Xtask | Room::Unknown => &[],
            Formats | Hub => &[Media],
            Protocol => &[Media, Formats, Hub, Net],
            Link => &[Net],
            Cascade => &[Media, Formats, Hub, Link],
            M7s => &[Media, Formats, Net, Hub, Link, Cascade],
            Sim => &[Media, Formats, Hub, Net],
            Node => &[Media, Formats, Net, Hub, Link, Cascade, M7s, Protocol, Bench],
            Bench => &[Media, Formats, Net, Hub, Link, Cascade, M7s, Sim, Protocol],
            Tests | Fuzz => {
                &[Media, Formats, Net, Hub, Link, Cascade, M7s, Sim, Node, Protocol, Bench, Tests, Fuzz, Xtask]
            }
        }
    }

    /// What to do when a package of this room reaches for what it must not have.
    fn advice(&self) -> &'static str {
        match self {
            Room::Media => "media is the ground: move what you need down into media",
            Room::Net => "net is a leaf without media: pass what you need in as an argument",
            Room::Formats => {
                "formats is pure, frames to bytes: a word that both need belongs in media, sockets in the caller"
            }
            Room::Hub => {
                "hub knows no protocol and no socket: a word that both need belongs in media, or let the caller pass it in"
            }
            Room::Protocol => {
                "a protocol knows no other protocol and not the node: meet in frames (media, hub), share bytes in formats"
            }
            Room::Link => "link knows bytes and requests, not media: cascade is where links meet streams",
            Room::Cascade => "cascade stands on hub and link: let the node pass in what it has above that",
            Room::M7s => "m7s stands on cascade: let the node pass in what it has above that",
            Room::Sim => "sim gives tests a world and knows none of what is tested: put the test in tests/",
            Room::Node => {
                "the program does not carry tests, fuzz targets, sim or xtask: use sim as a dev-dependency, tests/ for whole nodes"
            }
            Room::Bench => "bench plays a client from outside: node may use bench, not the other way round",
            Room::Tests | Room::Fuzz => "name its folder in xtask/src/arrows.rs",
            Room::Xtask => "xtask asks cargo and stands alone",
            Room::Unknown => "a new folder: say in xtask/src/arrows.rs what it is and what it may use",
        }
    }
}

/// One of our packages names another in its Cargo.toml.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Edge {
    /// Package name and room of the user.
    pub(crate) from: (String, Room),
    /// Package name and room of the used.
    pub(crate) to: (String, Room),
    /// A dev-dependency, which holds for tests only.
    pub(crate) dev: bool,
}

/// An edge that is not drawn.
#[derive(PartialEq, Eq, Debug)]
pub(crate) struct Wrong<'a>(&'a Edge);

impl fmt::Display for Wrong<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Edge { from: (from, room), to: (to, used), dev } = self.0;
        let how = if *dev { "has for its tests" } else { "uses" };
        // A known room that reaches into an unknown one needs the unknown one explained first.
        let advice = if *used == Room::Unknown { used.advice() } else { room.advice() };
        write!(f, "{from} {how} {to}: {advice}")
    }
}

/// What `cargo metadata` printed is not what it has printed so far.
#[derive(PartialEq, Eq, Debug)]
pub(crate) struct Unreadable(String);

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cargo metadata is not as expected: {}", self.0)
    }
}

/// All edges between members of the workspace, from the output of `cargo metadata --format-version 1 --no-deps`.
pub(crate) fn edges(metadata: &[u8]) -> Result<Vec<Edge>, Unreadable> {
    let metadata: Value = serde_json::from_slice(metadata).map_err(|e| Unreadable(e.to_string()))?;
    let root = text(&metadata, "workspace_root")?;
    let packages = list(&metadata, "packages")?;
    let mut members = Vec::with_capacity(packages.len());
    for package in packages {
        let manifest = text(package, "manifest_path")?;
        let folder = manifest.strip_prefix(root).unwrap_or(manifest).trim_start_matches(['/', '\\']);
        let folder = folder.strip_suffix("Cargo.toml").unwrap_or(folder).trim_end_matches(['/', '\\']);
        members.push((text(package, "name")?, Room::of(&folder.replace('\\', "/"))));
    }
    let mut edges = Vec::new();
    for (package, (name, room)) in packages.iter().zip(&members) {
        for dependency in list(package, "dependencies")? {
            let used = text(dependency, "name")?;
            if let Some((_, used_room)) = members.iter().find(|(member, _)| *member == used) {
                edges.push(Edge {
                    from: ((*name).to_owned(), room.clone()),
                    to: (used.to_owned(), used_room.clone()),
                    dev: dependency.get("kind").and_then(Value::as_str) == Some("dev"),
                });
            }
        }
    }
    Ok(edges)
}

/// `Some` when the edge is not drawn. Tests may use whatever the room may, and sim.
pub(crate) fn judge(edge: &Edge) -> Option<Wrong<'_>> {
    let Edge { from: (_, room), to: (_, used), dev } = edge;
    let drawn = room.may_use().contains(used) || (*dev && *used == Room::Sim && *room != Room::Unknown);
    (!drawn).then_some(Wrong(edge))
}

fn text<'a>(value: &'a Value, key: &str) -> Result<&'a str, Unreadable> {
    value.get(key).and_then(Value::as_str).ok_or_else(|| Unreadable(format!("no text {key:?}")))
}

fn list<'a>(value: &'a Value, key: &str) -> Result<&'a [Value], Unreadable> {
    value.get(key).and_then(Value::as_array).map(Vec::as_slice).ok_or_else(|| Unreadable(format!("no list {key:?}")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A folder, and what its package depends on: (name, kind).
    type Package = (&'static str, &'static [(&'static str, Option<&'static str>)]);

    /// A workspace of these folders; the package of `crates/media` is `media`.
    fn workspace(packages: &[Package]) -> Vec<u8> {
        let packages: Vec<_> = packages
            .iter()
            .map(|(folder, dependencies)| {
                let dependencies: Vec<_> =
                    dependencies.iter().map(|(name, kind)| json!({"name": name, "kind": kind})).collect();
                json!({
                    "name": folder.rsplit('/').next(),
                    "manifest_path": format!("/src/culvert/{folder}/Cargo.toml"),
                    "dependencies": dependencies,
                })
            })
            .collect();
        json!({"workspace_root": "/src/culvert", "packages": packages}).to_string().into_bytes()
    }

    /// What is wrong with it, as `user -> used`.
    fn wrong(metadata: &[u8]) -> Vec<String> {
        let edges = edges(metadata).expect("the tests write readable metadata");
        edges.iter().filter_map(judge).map(|w| format!("{} -> {}", w.0.from.0, w.0.to.0)).collect()
    }

    const HOUSE: &[Package] = &[
        ("crates/media", &[("bytes", None)]),
        ("crates/net", &[]),
        ("crates/formats", &[("media", None)]),
        ("crates/hub", &[("media", None), ("sim", Some("dev"))]),
        ("crates/link", &[("net", None)]),
        ("crates/cascade", &[("hub", None), ("link", None), ("formats", None), ("media", None)]),
        ("crates/m7s", &[("cascade", None)]),
        ("crates/sim", &[("media", None)]),
        ("protocols/rtmp", &[("media", None), ("formats", None), ("hub", None), ("net", None)]),
        ("crates/node", &[("rtmp", None), ("m7s", None), ("bench", None), ("net", None)]),
        ("bench", &[("net", None), ("rtmp", None)]),
        ("tests", &[("node", Some("dev")), ("bench", None)]),
        ("fuzz", &[("rtmp", None), ("node", None)]),
        ("xtask", &[("serde_json", None)]),
    ];

    #[test]
    fn the_house_as_drawn_passes_and_outside_packages_are_no_edges() {
        let metadata = workspace(HOUSE);
        assert_eq!(wrong(&metadata), Vec::<String>::new());
        assert!(edges(&metadata).expect("readable").iter().all(|e| e.to.0 != "bytes" && e.to.0 != "serde_json"));
    }

    #[test]
    fn each_edge_that_points_back_is_found() {
        let back: &[Package] = &[
            ("crates/media", &[("formats", None)]),
            ("crates/formats", &[("hub", None)]),
            ("crates/formats", &[("net", None)]),
            ("crates/hub", &[("net", None)]),
            ("crates/hub", &[("rtmp", None)]),
            ("crates/hub", &[("formats", None)]),
            ("crates/net", &[("media", None)]),
            ("crates/link", &[("hub", None)]),
            ("crates/cascade", &[("m7s", None)]),
            ("crates/cascade", &[("rtmp", None)]),
            ("protocols/rtmp", &[("node", None)]),
            ("protocols/rtmp", &[("cascade", None)]),
            ("bench", &[("node", None)]),
            ("crates/node", &[("tests", None)]),
            ("crates/node", &[("sim", None)]),
            ("xtask", &[("media", None)]),
        ];
        for package in back {
            let house: Vec<_> = HOUSE.iter().map(|p| if p.0 == package.0 { *package } else { *p }).collect();
            let name = package.0.rsplit('/').next().unwrap_or_default();
            assert_eq!(wrong(&workspace(&house)), [format!("{name} -> {}", package.1[0].0)]);
        }
    }

    #[test]
    fn a_protocol_must_not_use_another_not_even_in_its_tests() {
        let metadata = workspace(&[("protocols/rtmp", &[]), ("protocols/live", &[("rtmp", Some("dev"))])]);
        assert_eq!(wrong(&metadata), ["live -> rtmp"]);
    }

    #[test]
    fn sim_is_for_tests_of_any_room_and_for_no_program() {
        let sim: Package = ("crates/sim", &[]);
        assert_eq!(wrong(&workspace(&[sim, ("crates/link", &[("sim", Some("dev"))])])), Vec::<String>::new());
        assert_eq!(wrong(&workspace(&[sim, ("crates/link", &[("sim", None)])])), ["link -> sim"]);
    }

    #[test]
    fn a_folder_nobody_explained_is_told_what_to_do() {
        let metadata = workspace(&[("crates/node", &[("attic", None)]), ("crates/attic", &[])]);
        let edges = edges(&metadata).expect("readable");
        let wrong = edges.first().and_then(judge).expect("attic is not in the table");
        assert!(wrong.to_string().starts_with("node uses attic: a new folder"), "{wrong}");
    }

    #[test]
    fn other_output_is_an_error_not_a_pass() {
        for other in ["", "[]", "{\"packages\": []}", "{\"workspace_root\": \"/\", \"packages\": [{}]}"] {
            assert!(edges(other.as_bytes()).is_err(), "{other}");
        }
    }
}
