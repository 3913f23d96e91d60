//! Pulls and pushes that were begun by command to be there after a restart, too: `data_dir/relays.json`.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use culvert_media::StreamName;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use super::{Order, Pulls, Pushes};
use crate::config::{PullUrl, PushUrl, Retry, keep_file};

/// What is saved. Cheap to clone.
#[derive(Clone)]
pub struct Saved(Arc<Inner>);

struct Inner {
    path: PathBuf,
    // Held while the file is written, so that the last that was asked is what is in it.
    rows: Mutex<Rows>,
}

#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default)]
struct Rows {
    /// By stream.
    pulls: BTreeMap<String, Pull>,
    pushes: Vec<Push>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Pull {
    /// With its secrets.
    url: String,
    on_demand: bool,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Push {
    stream: String,
    /// With its secrets.
    url: String,
    on_demand: bool,
    retry: String,
}

impl Push {
    fn of(order: &Order) -> Push {
        let url = order.url.url().to_string();
        Push { stream: order.stream.to_string(), url, on_demand: order.on_demand, retry: order.retry.to_string() }
    }

    fn order(&self) -> Result<Order, String> {
        let stream = StreamName::parse(&self.stream).map_err(|why| why.to_string())?;
        let (url, retry) = (PushUrl::parse(&self.url)?, Retry::parse(&self.retry)?);
        Ok(Order { stream, url, on_demand: self.on_demand, retry, once: false })
    }
}

impl Saved {
    /// Reads what is in `data_dir`. A file that cannot be read is an error: the next write would lose what is in it.
    pub fn load(data_dir: &Path) -> io::Result<Saved> {
        let path = data_dir.join("relays.json");
        let rows = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|why| {
                let what = format!("{}: {why}; mend the file, or delete it to begin without them", path.display());
                io::Error::new(ErrorKind::InvalidData, what)
            })?,
            Err(why) if why.kind() == ErrorKind::NotFound => Rows::default(),
            Err(why) => return Err(io::Error::new(why.kind(), format!("{}: {why}", path.display()))),
        };
        Ok(Saved(Arc::new(Inner { path, rows: Mutex::new(rows) })))
    }

    /// Begins all of it. What the configuration has by now goes before.
    pub fn begin(&self, pulls: &Pulls, pushes: &Pushes) {
        let Ok(rows) = self.0.rows.try_lock() else { return };
        for (stream, pull) in &rows.pulls {
            let begun = StreamName::parse(stream).map_err(|why| why.to_string()).and_then(|name| {
                let url = PullUrl::parse(&pull.url)?;
                pulls.add(&name, &url, pull.on_demand).map_err(|why| why.to_string())
            });
            if let Err(why) = begun {
                tracing::warn!(%stream, %why, "a saved pull was not begun");
            }
        }
        for push in &rows.pushes {
            let begun = push.order().and_then(|order| pushes.start(order).map_err(|why| why.to_string()));
            if let Err(why) = begun {
                tracing::warn!(stream = %push.stream, %why, "a saved push was not begun");
            }
        }
    }

    /// Adds a pull.
    pub async fn keep_pull(&self, stream: &StreamName, url: &PullUrl, on_demand: bool) -> io::Result<()> {
        let pull = Pull { url: url.url().to_string(), on_demand };
        self.change(|rows| drop(rows.pulls.insert(stream.to_string(), pull))).await
    }

    /// Adds a push.
    pub async fn keep_push(&self, order: &Order) -> io::Result<()> {
        let push = Push::of(order);
        self.change(|rows| {
            rows.pushes.retain(|known| (&known.stream, &known.url) != (&push.stream, &push.url));
            rows.pushes.push(push);
        })
        .await
    }

    /// Takes a pull out; nothing happens where it is not saved.
    pub async fn forget_pull(&self, stream: &StreamName) -> io::Result<()> {
        self.change(|rows| drop(rows.pulls.remove(stream.as_str()))).await
    }

    /// Takes a push out; nothing happens where it is not saved.
    pub async fn forget_push(&self, order: &Order) -> io::Result<()> {
        let gone = Push::of(order);
        self.change(|rows| rows.pushes.retain(|push| (&push.stream, &push.url) != (&gone.stream, &gone.url))).await
    }

    async fn change(&self, change: impl FnOnce(&mut Rows)) -> io::Result<()> {
        let mut rows = self.0.rows.lock().await;
        let mut changed = rows.clone();
        change(&mut changed);
        if changed == *rows {
            return Ok(());
        }
        let (path, text) = (self.0.path.clone(), serde_json::to_string_pretty(&changed).map_err(io::Error::other)?);
        // For its owner alone: there are keys in URLs. A sync may take a while on a card.
        let written = tokio::task::spawn_blocking(move || keep_file(&path, &text, 0o600)).await;
        written.map_err(io::Error::other)??;
        *rows = changed;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(stream: &str, retry: Retry) -> Order {
        let url = PushUrl::parse("ws://u:secret@h/erwscascade/wspush/live/a").unwrap();
        Order { stream: StreamName::parse(stream).unwrap(), url, on_demand: true, retry, once: false }
    }

    #[tokio::test]
    async fn what_was_saved_is_there_the_next_time_and_for_its_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let saved = Saved::load(folder.path()).unwrap();
        let (name, url) = (StreamName::parse("live/a").unwrap(), PullUrl::parse("rtmp://h/live/a?key=k").unwrap());
        saved.keep_pull(&name, &url, true).await.unwrap();
        saved.keep_push(&order("live/b", Retry::Times(3))).await.unwrap();
        saved.keep_push(&order("live/b", Retry::Never)).await.unwrap();
        let rows = Saved::load(folder.path()).unwrap().0.rows.lock().await.clone();
        assert_eq!(rows.pulls["live/a"], Pull { url: "rtmp://h/live/a?key=k".into(), on_demand: true });
        let again: Vec<Order> = rows.pushes.iter().map(|push| push.order().unwrap()).collect();
        assert_eq!(again, [order("live/b", Retry::Never)]);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = fs::metadata(folder.path().join("relays.json")).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        saved.forget_push(&order("live/b", Retry::Forever)).await.unwrap();
        saved.forget_pull(&name).await.unwrap();
        assert_eq!(*Saved::load(folder.path()).unwrap().0.rows.lock().await, Rows::default());
    }

    #[test]
    fn a_damaged_file_is_not_overwritten_but_told() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("relays.json"), "{\"pulls\": 3}").unwrap();
        let refused = Saved::load(folder.path()).err().unwrap().to_string();
        assert!(refused.contains("relays.json") && refused.contains("delete it"), "{refused}");
    }
}
