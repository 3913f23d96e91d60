//! An m7s v4 configuration file in words of ours (OLD_PEERS.md 1). What means nothing here is named, once for each block.

use serde_json::{Map, Value, json};

/// A file of m7s, translated.
#[derive(Clone, Debug, PartialEq)]
pub struct Translated {
    /// The same as a configuration of ours.
    pub config: Value,
    /// What was left out and what is different, a sentence each.
    pub warnings: Vec<String>,
}

/// Translates a file that is one of m7s. None: it is none.
pub fn translate(file: &Value) -> Option<Translated> {
    let file = file.as_object()?;
    if !file.contains_key("erwscascade") && !file.contains_key("global") {
        return None;
    }
    let mut work = Work { out: Map::new(), warnings: Vec::new() };
    work.http(file);
    for (block, value) in file {
        match block.to_ascii_lowercase().as_str() {
            "global" => {}
            "erwscascade" => work.erwscascade(value),
            known @ ("rtmp" | "hdl" | "rtsp" | "hls") => work.protocol(known, value),
            _ => work.warn(format!("`{block}` means nothing here and is left out")),
        }
    }
    if file.get("rtmp").and_then(|rtmp| rtmp.pointer("/tcp/listenaddr")).is_none() {
        work.set("/rtmp/listen", json!("0.0.0.0:1935"));
    }
    work.warn(
        "m7s let everybody publish, play and link; here nobody from elsewhere may without a token: write an `auth` section, and \
         cascade.lowers.old_peers for lowers that still run m7s, in a file of ours (culvert check -c FILE prints what to begin with)"
            .into(),
    );
    Some(Translated { config: Value::Object(work.out), warnings: work.warnings })
}

struct Work {
    out: Map<String, Value>,
    warnings: Vec<String>,
}

impl Work {
    fn warn(&mut self, sentence: String) {
        self.warnings.push(sentence);
    }

    /// Sets what is at this path, such as `/rtmp/listen`.
    fn set(&mut self, path: &str, value: Value) {
        let mut place = &mut self.out;
        let mut keys = path.trim_start_matches('/').split('/').peekable();
        while let Some(key) = keys.next() {
            if keys.peek().is_none() {
                place.insert(key.to_string(), value);
                return;
            }
            let next = place.entry(key).or_insert_with(|| json!({}));
            let Some(next) = next.as_object_mut() else { return };
            place = next;
        }
    }

    /// Adds a row to a table, whose keys are names with slashes in them.
    fn row(&mut self, section: &str, table: &str, name: &str, value: &str) {
        let section = self.out.entry(section).or_insert_with(|| json!({}));
        let Some(section) = section.as_object_mut() else { return };
        let table = section.entry(table).or_insert_with(|| json!({}));
        if let Some(table) = table.as_object_mut() {
            table.insert(name.to_string(), value.into());
        }
    }

    /// Says which keys of a block are not understood.
    fn leftovers(&mut self, block: &str, value: &Value, known: &[&str]) {
        let keys = value.as_object().into_iter().flat_map(|map| map.keys());
        let others: Vec<&str> =
            keys.map(String::as_str).filter(|key| !known.contains(&key.to_ascii_lowercase().as_str())).collect();
        if !others.is_empty() {
            self.warn(format!("`{block}`: {} left out, since it means nothing here", others.join(", ")));
        }
    }

    /// The one port: that of TLS where there is one.
    fn http(&mut self, file: &Map<String, Value>) {
        let global = file.get("global").cloned().unwrap_or(Value::Null);
        let text =
            |key: &str| global.pointer(&format!("/http/{key}")).and_then(Value::as_str).filter(|text| !text.is_empty());
        let (plain, secure) = (text("listenaddr"), text("listenaddrtls"));
        match (secure, text("certfile"), text("keyfile")) {
            (Some(secure), Some(cert), Some(key)) => {
                self.set("/listen", address(secure).into());
                self.set("/tls", json!({ "cert": cert, "key": key }));
                if let Some(plain) = plain {
                    self.warn(format!(
                        "`global.http`: there is one port here, {secure} with TLS; {plain} is not opened"
                    ));
                }
            }
            _ => self.set("/listen", address(plain.unwrap_or(":8080")).into()),
        }
        self.leftovers("global", &global, &["http"]);
        let http = global.get("http").cloned().unwrap_or(Value::Null);
        self.leftovers("global.http", &http, &["listenaddr", "listenaddrtls", "certfile", "keyfile", "cors"]);
    }

    fn erwscascade(&mut self, block: &Value) {
        let info = block.get("cinfo").cloned().unwrap_or(Value::Null);
        for key in ["cid", "name", "serial"] {
            let value = block.get(key).or_else(|| info.get(key)).and_then(scalar).filter(|text| !text.is_empty());
            if let Some(value) = value {
                self.set(&format!("/node/{key}"), value.into());
            }
        }
        let uppers: Vec<Value> = list(block.get("server")).iter().filter_map(|server| self.upper(server)).collect();
        if !uppers.is_empty() {
            self.set("/cascade/uppers", uppers.into());
        }
        if let Some(push) = block.get("push") {
            self.push("erwscascade.push", push);
        }
        self.leftovers(
            "erwscascade",
            block,
            &["cid", "name", "serial", "cinfo", "server", "push", "publish", "subscribe"],
        );
    }

    fn upper(&mut self, server: &Value) -> Option<Value> {
        let text = |key: &str| server.get(key).and_then(scalar).unwrap_or_default();
        let (host, port) = (text("host"), text("port"));
        if host.is_empty() {
            self.warn("`erwscascade.server`: an entry without a host is left out".into());
            return None;
        }
        let secure = text("protocol").eq_ignore_ascii_case("wss");
        let host = if host.contains(':') && !host.starts_with('[') { format!("[{host}]") } else { host };
        let port = if port.is_empty() { String::new() } else { format!(":{port}") };
        let context = text("conextpath");
        let context = context.trim_matches('/');
        let slash = if context.is_empty() { "" } else { "/" };
        Some(json!({ "url": format!("{}://{host}{port}{slash}{context}", if secure { "wss" } else { "ws" }) }))
    }

    fn push(&mut self, block: &str, push: &Value) {
        if let Some(times) = push.get("repush").and_then(Value::as_i64) {
            let retry = match times {
                0 => json!("never"),
                1.. => json!(times),
                _ => json!("forever"),
            };
            self.set("/push/retry", retry);
        }
        for (stream, url) in table(push.get("pushlist")) {
            self.row("push", "list", &stream, &url);
        }
        self.leftovers(block, push, &["repush", "pushlist", "enableregexp", "proxy"]);
    }

    fn protocol(&mut self, block: &str, value: &Value) {
        if block == "rtsp" {
            if let Some(listen) = value.get("listenaddr").and_then(Value::as_str) {
                self.set("/rtsp/listen", if listen.is_empty() { Value::Null } else { address(listen).into() });
            }
            self.udp(value);
        } else if block == "rtmp"
            && let Some(listen) = value.pointer("/tcp/listenaddr").and_then(Value::as_str)
        {
            self.set("/rtmp/listen", if listen.is_empty() { Value::Null } else { address(listen).into() });
        }
        if block == "hls" {
            self.hls(value);
        }
        if let Some(pull) = value.get("pull") {
            let regular = pull.get("enableregexp").and_then(Value::as_bool) == Some(true);
            for (key, ours) in [("pullonstart", "always"), ("pullonsub", "on_demand")] {
                for (stream, url) in table(pull.get(key)) {
                    let url = if block == "hls" && !url.contains(".m3u8") { format!("{url}#hls") } else { url };
                    if regular && stream.contains(['(', '[', '\\', '+']) {
                        self.warn(format!("`{block}.pull`: {stream} is left out; patterns here have * and **"));
                    } else {
                        self.row("pull", ours, &stream, &url);
                    }
                }
            }
            self.leftovers(
                &format!("{block}.pull"),
                pull,
                &["pullonstart", "pullonsub", "repull", "enableregexp", "proxy"],
            );
        }
        if let Some(push) = value.get("push") {
            self.push(&format!("{block}.push"), push);
        }
        self.leftovers(
            block,
            value,
            &["tcp", "pull", "push", "publish", "subscribe", "listenaddr", "udpaddr", "rtcpaddr", "fragment", "window"],
        );
    }

    /// How streams are cut, where ours can be cut so.
    fn hls(&mut self, hls: &Value) {
        if let Some(fragment) = hls.get("fragment").and_then(scalar) {
            match millis(&fragment).map(|asked| (asked, asked.clamp(500, 12_000))) {
                Some((asked, taken)) => {
                    self.set("/hls/segment", format!("{taken}ms").into());
                    if asked != taken {
                        self.warn(format!(
                            "`hls.fragment`: {fragment} is made {taken}ms; a segment has 500ms to 12s here"
                        ));
                    }
                }
                None => self.warn(format!("`hls.fragment`: {fragment} is no duration and is left out")),
            }
        }
        if let Some(window) = hls.get("window").and_then(Value::as_u64) {
            // There it is of whole segments that have ended, of which 2 were usual; a player needs three.
            self.set("/hls/window", json!(window.clamp(3, 60)));
        }
    }

    /// Two addresses there, a pair of ports here.
    fn udp(&mut self, rtsp: &Value) {
        let port = |key: &str| rtsp.get(key).and_then(Value::as_str)?.rsplit_once(':')?.1.parse::<u16>().ok();
        if let (Some(media), Some(reports)) = (port("udpaddr"), port("rtcpaddr")) {
            self.set("/rtsp/udp", format!("0.0.0.0:{media}-{reports}").into());
        }
    }
}

/// Go's `:8080` is all addresses.
fn address(text: &str) -> String {
    if text.starts_with(':') { format!("0.0.0.0{text}") } else { text.to_string() }
}

/// Go's `2s`, `1.5s`, `500ms`, `1m30s`.
fn millis(text: &str) -> Option<u64> {
    let (mut rest, mut sum) = (text.trim(), 0.0);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, behind) = rest.split_at_checked(digits)?;
        let unit = behind.find(|c: char| c.is_ascii_digit()).unwrap_or(behind.len());
        let (unit, behind) = behind.split_at_checked(unit)?;
        let factor = match unit {
            "ms" => 1.0,
            "s" => 1_000.0,
            "m" => 60_000.0,
            "h" => 3_600_000.0,
            _ => return None,
        };
        sum += number.parse::<f64>().ok()? * factor;
        rest = behind;
    }
    (sum > 0.0).then_some(sum as u64)
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    }
}

/// One entry need not be a list.
fn list(value: Option<&Value>) -> Vec<Value> {
    match value {
        Some(Value::Array(list)) => list.clone(),
        Some(Value::Null) | None => Vec::new(),
        Some(one) => vec![one.clone()],
    }
}

fn table(value: Option<&Value>) -> Vec<(String, String)> {
    let rows = value.and_then(Value::as_object).into_iter().flatten();
    rows.filter_map(|(name, url)| Some((name.clone(), scalar(url)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seed_s_file_is_understood() {
        let file = json!({
            "global": {"http": {"listenaddr": ":8440", "cors": true}},
            "erwscascade": {
                "cid": "test-c001",
                "server": [
                    {"protocol": "wss", "host": "47.111.28.16", "port": 8441, "conextpath": ""},
                    {"protocol": "ws", "host": "::1", "port": 80, "conextpath": "/a/b"},
                ],
                "push": {"repush": -1, "pushlist": {"njtv/glgc": "ws://127.0.0.1:8450/erwscascade/wspush/njtv/glgc"}},
            },
            "rtmp": {"tcp": {"listenaddr": ":1936"}, "pull": {"pullonstart": {"live/a": "rtmp://h/a"}, "pullonsub": {"live/b": "rtsp://h/b"}}},
            "hls": {"fragment": "2s", "window": 2, "preload": true, "pull": {"pullonstart": {"live/c": "https://h/c.m3u8", "live/d": "http://h/d?x"}}},
            "snap": {"filter": ".*"},
        });
        let Translated { config, warnings } = translate(&file).unwrap();
        assert_eq!(
            config,
            json!({
                "listen": "0.0.0.0:8440",
                "node": {"cid": "test-c001"},
                "cascade": {"uppers": [{"url": "wss://47.111.28.16:8441"}, {"url": "ws://[::1]:80/a/b"}]},
                "push": {"retry": "forever", "list": {"njtv/glgc": "ws://127.0.0.1:8450/erwscascade/wspush/njtv/glgc"}},
                "rtmp": {"listen": "0.0.0.0:1936"},
                "hls": {"segment": "2000ms", "window": 3},
                "pull": {"always": {"live/a": "rtmp://h/a", "live/c": "https://h/c.m3u8", "live/d": "http://h/d?x#hls"}, "on_demand": {"live/b": "rtsp://h/b"}},
            })
        );
        assert_eq!(warnings.len(), 3, "{warnings:?}");
        assert!(warnings.iter().any(|warning| warning.contains("`hls`: preload")), "{warnings:?}");
        assert!(warnings.iter().any(|warning| warning.contains("`snap`")), "{warnings:?}");
    }

    #[test]
    fn fragments_are_cut_as_ours_can_be() {
        let cut = |fragment: &str| {
            let file = json!({"global": {}, "hls": {"fragment": fragment}});
            let Translated { config, warnings } = translate(&file).unwrap();
            (config["hls"]["segment"].clone(), warnings.iter().any(|warning| warning.contains("hls.fragment")))
        };
        assert_eq!(cut("1.5s"), (json!("1500ms"), false));
        assert_eq!(cut("1m30s"), (json!("12000ms"), true));
        assert_eq!((cut("2"), cut("x")), ((Value::Null, true), (Value::Null, true)));
    }

    #[test]
    fn a_file_of_ours_is_none_and_a_bare_one_listens_where_m7s_does() {
        assert_eq!(translate(&json!({"listen": "0.0.0.0:1"})), None);
        assert_eq!(translate(&json!([])), None);
        let bare = translate(&json!({"erwscascade": null, "global": {"http": {"listenaddrtls": ":8443", "certfile": "c", "keyfile": "k"}}})).unwrap();
        let expected =
            json!({"listen": "0.0.0.0:8443", "tls": {"cert": "c", "key": "k"}, "rtmp": {"listen": "0.0.0.0:1935"}});
        assert_eq!(bare.config, expected);
        let defaults = translate(&json!({"erwscascade": {"cinfo": {"cid": 7, "name": "n", "serial": "s"}}})).unwrap();
        assert_eq!(defaults.config["listen"], "0.0.0.0:8080");
        assert_eq!(defaults.config["node"], json!({"cid": "7", "name": "n", "serial": "s"}));
    }
}
