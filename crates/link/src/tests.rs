//! Both ends of a link on a pipe: what rests, and what wakes it.

use std::sync::Mutex;

use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use tokio::io::{AsyncWriteExt, duplex};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::figures::Shared;
use crate::serve::serve;

type Answering = std::pin::Pin<Box<dyn Future<Output = Response<Body>> + Send>>;

/// Says what it was asked, and keeps the last way to tell news.
#[derive(Default)]
struct Echo(Mutex<Option<News>>);

impl Service for Echo {
    fn call(&self, request: Request<Body>) -> Answering {
        *self.0.lock().unwrap() = request.extensions().get::<News>().cloned();
        Box::pin(async move {
            if request.uri().path() == "/slow" {
                sleep(std::time::Duration::from_secs(60)).await;
            }
            Response::new(body(Full::new(request.uri().path().to_string().into())))
        })
    }
}

struct Pair {
    link: Link,
    echo: std::sync::Arc<Echo>,
    stop: CancellationToken,
    upper: tokio::task::JoinHandle<String>,
    lower: tokio::task::JoinHandle<Result<(), String>>,
}

fn pair() -> Pair {
    let (a, b) = duplex(16 << 10);
    let remote = ([127, 0, 0, 1], 1).into();
    let Accepted { link, driver } = accept(Conn::other(a, remote, false), 8);
    let (echo, stop) = (std::sync::Arc::new(Echo::default()), CancellationToken::new());
    let lower = tokio::spawn({
        let (echo, stop) = (echo.clone(), stop.clone());
        async move {
            let shared = std::sync::Arc::new(Shared::new());
            serve(Conn::other(b, remote, false), echo, shared, &stop).await
        }
    });
    Pair { link, echo, stop, upper: tokio::spawn(driver), lower }
}

impl Pair {
    async fn ask(&self, path: &str) -> String {
        let request = Request::get(format!("http://edge1{path}")).body(empty()).unwrap();
        let answer = self.link.request(request).await.unwrap();
        String::from_utf8(answer.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
    }
}

fn secs(seconds: f64) -> std::time::Duration {
    std::time::Duration::from_secs_f64(seconds)
}

#[tokio::test(start_paused = true)]
async fn a_link_rests_when_nothing_is_asked_and_wakes_for_the_next_request() {
    let pair = pair();
    for n in 0..5 {
        assert_eq!(pair.ask("/a").await, "/a");
        assert!(!pair.link.figures().resting);
        sleep(secs(21.0)).await;
        assert!(pair.link.figures().resting && !pair.link.is_closed(), "after request {n}");
        // It lives on by its heartbeat.
        sleep(secs(300.0)).await;
        assert!(pair.link.figures().resting && !pair.upper.is_finished());
    }
}

#[tokio::test(start_paused = true)]
async fn what_takes_long_keeps_a_link_awake() {
    let pair = pair();
    let asked = async { assert_eq!(pair.ask("/slow").await, "/slow") };
    let looking = async {
        sleep(secs(59.0)).await;
        assert!(!pair.link.figures().resting);
    };
    tokio::join!(asked, looking);
}

#[tokio::test(start_paused = true)]
async fn requests_at_the_very_moment_of_rest_are_answered() {
    let pair = pair();
    for n in 0..400 {
        let path = format!("/{n}");
        assert_eq!(pair.ask(&path).await, path);
        sleep(secs(10.0) + std::time::Duration::from_micros(n * 10)).await;
        for _ in 0..n % 40 {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn news_are_heard_at_rest_and_while_something_runs() {
    let pair = pair();
    pair.ask("/a").await;
    let news = pair.echo.0.lock().unwrap().clone().unwrap();
    assert!(news.tell());
    pair.link.news().await;
    sleep(secs(21.0)).await;
    assert!(pair.link.figures().resting && !news.is_gone());
    let begun = Instant::now();
    assert!(news.tell());
    pair.link.news().await;
    assert!(begun.elapsed() < secs(0.1) && pair.link.figures().resting);
}

#[tokio::test(start_paused = true)]
async fn both_ends_of_a_link_at_rest_hear_that_it_ends() {
    let pair = pair();
    pair.ask("/a").await;
    sleep(secs(21.0)).await;
    pair.stop.cancel();
    assert_eq!(pair.upper.await.unwrap(), "closed by the other end: this node is shutting down");
    assert_eq!(pair.lower.await.unwrap(), Ok(()));
    let request = Request::get("http://edge1/").body(empty()).unwrap();
    let refused = pair.link.request(request).await.unwrap_err();
    assert_eq!(refused, LinkError::Lost("this node is shutting down".into()));
}

#[tokio::test(start_paused = true)]
async fn an_end_that_says_rest_and_was_not_asked_to_is_left() {
    // A word of a client with a mask of zeros, once and twice.
    for (words, why) in [(1, "did not come to rest"), (2, "ends twice")] {
        let (a, mut b) = duplex(16 << 10);
        let remote = ([127, 0, 0, 1], 1).into();
        let Accepted { link, driver } = accept(Conn::other(a, remote, false), 8);
        b.write_all(&b"\x81\x84\0\0\0\0rest".repeat(words)).await.unwrap();
        let begun = Instant::now();
        let request = Request::get("http://edge1/").body(empty()).unwrap();
        let (ended, asked) = tokio::join!(driver, link.request(request));
        assert!(ended.contains(why), "{ended}");
        assert!(matches!(asked, Err(LinkError::Lost(_))), "who waits is told");
        assert!(begun.elapsed() < secs(15.0));
    }
}

#[tokio::test(start_paused = true)]
async fn a_lower_leaves_an_upper_that_says_rest_and_goes_on_with_nothing() {
    let (mut a, b) = duplex(16 << 10);
    a.write_all(b"\x81\x04rest").await.unwrap();
    let (echo, stop) = (std::sync::Arc::new(Echo::default()), CancellationToken::new());
    let conn = Conn::other(b, ([127, 0, 0, 1], 1).into(), false);
    let served = serve(conn, echo, std::sync::Arc::new(Shared::new()), &stop);
    let ended = tokio::time::timeout(secs(15.0), served).await.unwrap();
    assert!(ended.unwrap_err().contains("did not come to rest"));
}

#[tokio::test(start_paused = true)]
async fn an_upper_ends_a_link_at_rest() {
    let pair = pair();
    pair.ask("/a").await;
    sleep(secs(21.0)).await;
    pair.link.close(4001, "replaced");
    assert_eq!(pair.upper.await.unwrap(), "closed by this node: replaced");
    assert_eq!(pair.lower.await.unwrap(), Ok(()));
}
