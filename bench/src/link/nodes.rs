//! Real nodes, one below the other.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::runtime::Runtime;

use crate::client::until_metric;
use crate::servers::{Server, free_address};

/// What says how many lowers are linked.
pub(crate) const LINKED: &str = "culvert_peers{state=\"linked\"}";
/// How long a link may take to be made on loopback, back-off included.
const LINK_PATIENCE: Duration = Duration::from_secs(10);

/// The configuration of a node, with an upper where it has one; `more`: lines of the section `cascade`, two spaces deep.
pub(crate) fn config(cid: &str, upper: Option<SocketAddr>, more: &str) -> String {
    let mut yaml = format!("node:\n  cid: {cid}\n");
    if upper.is_some() || !more.is_empty() {
        yaml.push_str("cascade:\n");
    }
    if let Some(upper) = upper {
        yaml.push_str(&format!("  uppers: [{{url: \"ws://{upper}\"}}]\n"));
    }
    yaml + more
}

/// Starts a node on these cores and waits until it is linked to its upper, where it has one.
pub(crate) fn start(
    runtime: &Runtime,
    program: &Path,
    cores: &str,
    cid: &str,
    upper: Option<SocketAddr>,
    more: &str,
) -> Result<Server> {
    let node = Server::node(program, cores, free_address()?, &config(cid, upper, more))?;
    if let Some(upper) = upper {
        runtime
            .block_on(until_metric(upper, LINKED, 1.0, LINK_PATIENCE))
            .with_context(|| format!("{cid} does not link; its log ends:\n{}", node.log()))?;
    }
    Ok(node)
}

/// A runtime on this thread.
pub(crate) fn runtime() -> Result<Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_has_what_it_needs_and_no_more() {
        let upper = SocketAddr::from(([127, 0, 0, 1], 9));
        assert_eq!(config("a", None, ""), "node:\n  cid: a\n");
        assert_eq!(
            config("b", Some(upper), "  allow: [\"* /**\"]\n"),
            "node:\n  cid: b\ncascade:\n  uppers: [{url: \"ws://127.0.0.1:9\"}]\n  allow: [\"* /**\"]\n"
        );
        assert_eq!(config("c", None, "  request_timeout: 1s\n"), "node:\n  cid: c\ncascade:\n  request_timeout: 1s\n");
    }
}
