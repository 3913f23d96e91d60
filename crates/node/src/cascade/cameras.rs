//! Cameras that are configured here and need not be there, for the catalogue.

use culvert_cascade::catalogue::{Cameras, StreamItem, millis};

use crate::relays::{Doing, Pulls};

/// The streams that this node pulls or would pull.
pub(super) struct Configured(pub(super) Pulls);

impl Cameras for Configured {
    fn list(&self) -> Vec<(String, StreamItem)> {
        let item = |state: &str, error| StreamItem {
            state: state.into(),
            origin: "pull".into(),
            error,
            ..StreamItem::default()
        };
        let mut list: Vec<(String, StreamItem)> =
            self.0.available().into_iter().map(|stream| (stream.to_string(), item("available", None))).collect();
        for pull in self.0.list() {
            let state = match pull.doing {
                Doing::Live | Doing::Waiting | Doing::Starting => "starting",
                Doing::Retrying | Doing::Stopped => "down",
            };
            let since_ms = Some(millis(pull.since));
            list.push((pull.stream, StreamItem { since_ms, ..item(state, pull.error) }));
        }
        list
    }
}
