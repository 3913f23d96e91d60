//! The console's files (`console/dist`, built by `npm run build --prefix console` and committed): within the program, and sent packed to browsers.

use std::io::Write;
use std::sync::LazyLock;

use axum::Router;
use axum::extract::Path;
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

/// Everything comes from this node; nothing is framed; media and pictures may come as blobs (Media Source Extensions, snapshots).
const POLICY: &str = "default-src 'self'; img-src 'self' data: blob:; media-src 'self' blob:; object-src 'none'; \
                      frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

const SCRIPT: &str = "text/javascript; charset=utf-8";

macro_rules! built {
    ($($name:literal $kind:expr;)*) => {
        [$(File::new($name, $kind, include_bytes!(concat!("../../../console/dist/", $name)))),*]
    };
}

static FILES: LazyLock<[File; 8]> = LazyLock::new(|| {
    built! {
        "index.html" "text/html; charset=utf-8";
        "index.js" SCRIPT;
        "index.css" "text/css; charset=utf-8";
        "whep.js" SCRIPT;
        "mse.js" SCRIPT;
        "flv.js" SCRIPT;
        "hls.js" SCRIPT;
        "licenses.txt" "text/plain; charset=utf-8";
    }
});

struct File {
    name: &'static str,
    kind: &'static str,
    plain: &'static [u8],
    packed: bytes::Bytes,
    etag: HeaderValue,
}

impl File {
    fn new(name: &'static str, kind: &'static str, plain: &'static [u8]) -> File {
        let mut packer = GzEncoder::new(Vec::new(), Compression::best());
        let packed = packer.write_all(plain).and_then(|()| packer.finish()).expect("memory takes what is written");
        let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, plain);
        let text: String = hash.as_ref().iter().take(12).map(|byte| format!("{byte:02x}")).collect();
        let etag = HeaderValue::from_str(&format!("\"{text}\"")).expect("hexadecimal is a header's value");
        File { name, kind, plain, packed: packed.into(), etag }
    }

    /// The file as this browser takes it; 304 where it has it.
    fn answer(&self, asked: &HeaderMap) -> Response {
        let lists = |name: HeaderName, word: &[u8]| {
            let values = asked.get_all(name).into_iter().flat_map(|value| value.as_bytes().split(|b| *b == b','));
            values.into_iter().any(|one| one.trim_ascii().strip_prefix(b"W/").unwrap_or(one.trim_ascii()) == word)
        };
        let mut response = if lists(header::IF_NONE_MATCH, self.etag.as_bytes()) {
            StatusCode::NOT_MODIFIED.into_response()
        } else if accepts_gzip(asked) {
            ([(header::CONTENT_ENCODING, "gzip")], self.packed.clone()).into_response()
        } else {
            self.plain.into_response()
        };
        let headers = response.headers_mut();
        for (name, value) in [
            (header::CONTENT_TYPE, self.kind),
            (header::CONTENT_SECURITY_POLICY, POLICY),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (header::REFERRER_POLICY, "no-referrer"),
            (header::CACHE_CONTROL, "no-cache"),
            (header::VARY, "accept-encoding"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        headers.insert(header::ETAG, self.etag.clone());
        response
    }
}

/// Whether gzip is listed, and not with `q=0` (RFC 9110 section 12.5.3).
fn accepts_gzip(asked: &HeaderMap) -> bool {
    let values = asked.get_all(header::ACCEPT_ENCODING).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|one| {
        let mut parts = one.split(';').map(str::trim);
        let named = parts.next().is_some_and(|name| name.eq_ignore_ascii_case("gzip"));
        let weight = parts.find_map(|part| part.strip_prefix("q=").or(part.strip_prefix("Q=")));
        named && weight.is_none_or(|q| q.parse::<f32>().is_ok_and(|q| q > 0.0))
    })
}

/// The routes, to be merged into the node's.
pub(crate) fn router() -> Router {
    Router::new()
        // Relative, for a gateway may have a prefix in front of it.
        .route("/", get(async || Redirect::temporary("console/")))
        .route("/console", get(async || Redirect::temporary("console/")))
        .route("/console/", get(async |headers: HeaderMap| file("index.html", &headers)))
        .route("/console/{name}", get(async |Path(name): Path<String>, headers: HeaderMap| file(&name, &headers)))
}

fn file(name: &str, asked: &HeaderMap) -> Response {
    match FILES.iter().find(|file| file.name == name) {
        Some(file) => file.answer(asked),
        None => (StatusCode::NOT_FOUND, "no such file of the console; it begins at /console/\n").into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(lines: &[(HeaderName, &'static str)]) -> HeaderMap {
        lines.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn what_a_browser_has_is_not_sent_again() {
        let first = file("index.js", &asked(&[(header::ACCEPT_ENCODING, "br, gzip;q=0.5")]));
        assert_eq!(
            (first.status(), &first.headers()[header::CONTENT_ENCODING]),
            (StatusCode::OK, &"gzip".parse().unwrap())
        );
        let mut again = HeaderMap::new();
        again.insert(header::IF_NONE_MATCH, first.headers()[header::ETAG].clone());
        assert_eq!(file("index.js", &again).status(), StatusCode::NOT_MODIFIED);
        again.insert(header::IF_NONE_MATCH, HeaderValue::from_static("\"other\""));
        assert_eq!(file("index.js", &again).status(), StatusCode::OK);
    }

    #[test]
    fn it_is_packed_for_those_who_unpack() {
        for (value, is) in
            [("gzip", true), ("GZIP", true), ("br", false), ("gzip;q=0", false), ("gzip; q=0.001", true), ("", false)]
        {
            assert_eq!(accepts_gzip(&asked(&[(header::ACCEPT_ENCODING, value)])), is, "{value}");
        }
    }

    /// What a browser loads before it shows anything, and the players of the first choice: issue 8 allows 150 KB.
    #[test]
    fn the_first_load_is_small() {
        let packed = |name: &str| FILES.iter().find(|file| file.name == name).unwrap().packed.len();
        let first: usize = ["index.html", "index.js", "index.css", "whep.js", "mse.js"].into_iter().map(packed).sum();
        assert!(first < 60_000, "{first}");
    }
}
