//! What passes, what is refused, and what is settled.

use std::time::Duration;

use http_body_util::BodyExt;
use traflux_core::plan::requests::RequestPlan;
use traflux_gateway::congestion::ConcurrencyPlan;
use traflux_gateway::observe::Format;
use traflux_gateway::server::mock::{MockBackend, MockSettings};
use traflux_gateway::server::{Gateway, ServerSettings};
use traflux_gateway::{Outcome, QueuePlan};

use crate::common::{chat, gateway, mock, open, plan, post, read, scripted, slow_mock, streamed, to, until};

const LIMITED: &str = r#"{
    "backends": {"only": {"url": "URL", "price": {"input_dollars_per_million": 1, "output_dollars_per_million": 10}}},
    "routing": {"default": {"backend": "only"}},
    "limits": [{"name": "tpm", "unit": "tokens", "amount": 1000, "by": "tenant"}]
}"#;

#[tokio::test]
async fn an_answer_passes_unchanged_and_its_usage_settles_the_limit() {
    let mock = mock().await;
    let gateway = gateway(&plan(&LIMITED.replace("URL", &mock.url()))).await;
    // Each reserves more than 900 of 1000 tokens and uses about 30: without settlement the second would be refused.
    for _ in 0..3 {
        let answer = post(gateway.address(), &[], &chat(900)).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        assert!(answer.body.contains("chat.completion") && answer.body.contains("word word"));
    }
    let row = gateway.tally().row("default", "only");
    assert_eq!((row.of(Outcome::Success), row.usage().output), (3, 48));
    let expected = (row.usage().input as f64 + 480.0) * 1e-6;
    assert!((row.dollars() - expected).abs() < 1e-12, "{} dollars, expected {expected}", row.dollars());
    let refused = post(gateway.address(), &[], &chat(950)).await;
    assert_eq!((refused.status, refused.code().as_str()), (429, "limited"));
    assert_eq!(refused.headers["x-ratelimit-limit-tokens"], "1000");
    let wait: u64 = refused.headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=60).contains(&wait), "{wait}");
    assert_eq!(post(gateway.address(), &[], &chat(5000)).await.status, 413);
}

#[tokio::test]
async fn a_stream_passes_piece_by_piece_and_its_last_event_settles_it() {
    let mock = slow_mock(8, 40.0).await;
    let gateway = gateway(&plan(&LIMITED.replace("URL", &mock.url()))).await;
    for _ in 0..2 {
        let response = open(gateway.address(), false, &[], &streamed(900)).await;
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        let mut body = response.into_body();
        let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
        let first = String::from_utf8(first.to_vec()).unwrap();
        assert!(first.contains("delta") && !first.contains("[DONE]"), "it was held back: {first}");
        let rest = String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap();
        assert_eq!(rest.matches("delta").count() + first.matches("delta").count(), 8);
        assert!(rest.ends_with("data: [DONE]\n\n"));
    }
    let row = gateway.tally().row("default", "only");
    assert_eq!((row.of(Outcome::Success), row.usage().output), (2, 16));
}

#[tokio::test]
async fn whoever_is_not_served_is_told_why_in_the_usual_shape() {
    let mock = mock().await;
    // SHA-256 of `secret`.
    let json = format!(
        r#"{{"backends": {{"only": {{"url": "{}", "models": {{"m": {{}}}}}}}},
        "routing": {{"rules": [{{"name": "chat", "match": {{"path": "/v1/chat"}}, "route": {{"backend": "only"}}}}]}},
        "identity": {{"api_keys": [{{"name": "ci", "tenant": "acme",
            "sha256": "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b"}}]}}}}"#,
        mock.url()
    );
    let gateway = gateway(&plan(&json)).await;
    let key = [("authorization", "Bearer secret")];
    let answer = post(gateway.address(), &[], &chat(1)).await;
    assert_eq!((answer.status, answer.code().as_str()), (401, "invalid_api_key"));
    assert_eq!(answer.headers["www-authenticate"], "Bearer");
    assert_eq!(post(gateway.address(), &key, &chat(1)).await.status, 200);
    let answer = post(gateway.address(), &key, &chat(1).replace("\"m\"", "\"other\"")).await;
    assert_eq!((answer.status, answer.code().as_str()), (404, "no_model"));
    let other = crate::common::raw(
        gateway.address(),
        b"GET /else HTTP/1.1\r\nhost: x\r\nx-api-key: secret\r\nconnection: close\r\n\r\n",
    );
    let other = other.await;
    assert!(other.starts_with("HTTP/1.1 404") && other.contains("\"no_route\""), "{other}");
    assert_eq!(mock.requests(), 1);
}

#[tokio::test]
async fn what_one_backend_fails_at_another_does() {
    let failing =
        MockBackend::start(MockSettings { failure_share: 1.0, ..MockSettings::default() }).await.unwrap();
    let good = mock().await;
    let json = format!(
        r#"{{"backends": {{"bad": {{"url": "{}"}}, "good": {{"url": "{}"}}}},
        "routing": {{"default": {{"backend": ["bad", "good"], "algorithm": "round-robin"}}}}}}"#,
        failing.url(),
        good.url()
    );
    let gateway = gateway(&plan(&json)).await;
    for _ in 0..20 {
        assert_eq!(post(gateway.address(), &[], &chat(5)).await.status, 200);
    }
    assert!(failing.requests() > 0, "the failing backend was never asked, so that nothing was shown");
    let row = gateway.tally().row("default", "bad");
    assert_eq!(row.retries(), failing.requests());
}

/// How many of a hundred requests to two backends, one in ten of which takes a second longer, take more than half a
/// second; how many second attempts there were, and how many attempts.
async fn late(retry: &str) -> (u64, u64, u64) {
    let stalling = |seed| {
        let settings = MockSettings {
            first_token: Duration::from_millis(5),
            stall_share: 0.1,
            stall: Duration::from_secs(1),
            seed,
            ..MockSettings::default()
        };
        MockBackend::start(settings)
    };
    let (a, b) = (stalling(3).await.unwrap(), stalling(4).await.unwrap());
    let json = format!(
        r#"{{"backends": {{"a": {{"url": "{}"}}, "b": {{"url": "{}"}}}}, "retry": {retry},
        "routing": {{"default": {{"backend": ["a", "b"], "algorithm": "round-robin"}}}}}}"#,
        a.url(),
        b.url()
    );
    let gateway = gateway(&plan(&json)).await;
    let mut late = 0;
    for _ in 0..100 {
        let sent = std::time::Instant::now();
        assert_eq!(post(gateway.address(), &[], &chat(5)).await.status, 200);
        late += u64::from(sent.elapsed() > Duration::from_millis(500));
    }
    let rows = gateway.tally().rows();
    let hedges = rows.iter().map(|(_, _, row)| row.hedges()).sum();
    (late, hedges, a.requests() + b.requests())
}

#[tokio::test]
async fn a_second_attempt_cuts_the_tail_of_a_backend_that_stalls() {
    let (alone, none, asked) = late("{}").await;
    assert!(alone >= 4, "nothing stalled: {alone}");
    assert_eq!((none, asked), (0, 100));
    let budget = r#""budget": {"min_per_second": 100}"#;
    let (hedged, seconds, asked) = late(&format!(r#"{{"hedge": {{"delay_ms": 60}}, {budget}}}"#)).await;
    assert!((1..40).contains(&seconds) && asked == 100 + seconds, "{seconds} of {asked}");
    // Both attempts stall for one request in a hundred.
    assert!(hedged <= alone / 2, "{hedged} of {alone}");
}

#[tokio::test]
async fn when_nobody_can_do_it_the_client_gets_what_the_backend_said() {
    let failing =
        MockBackend::start(MockSettings { failure_share: 1.0, ..MockSettings::default() }).await.unwrap();
    let gateway = gateway(&to(&failing.url())).await;
    let answer = post(gateway.address(), &[], &chat(5)).await;
    assert_eq!(answer.status, 500);
    assert!(answer.body.contains("as it was told"), "{}", answer.body);
}

/// A plan that sends one request at a time.
fn one_at_a_time(url: &str) -> RequestPlan {
    let mut plan = to(url);
    plan.congestion.concurrency = Some(ConcurrencyPlan::fixed(1));
    plan
}

#[tokio::test]
async fn requests_beyond_the_room_wait_their_turn() {
    let settings = MockSettings { first_token: Duration::from_millis(50), ..MockSettings::default() };
    let mock = MockBackend::start(settings).await.unwrap();
    let run = async |queue| {
        let plan = RequestPlan { queue, ..one_at_a_time(&mock.url()) };
        let gateway = Gateway::start(&plan, ServerSettings::default()).await.unwrap();
        let answers = (0..4).map(|_| {
            let address = gateway.address();
            tokio::spawn(async move { post(address, &[], &chat(5)).await.status })
        });
        let mut statuses = Vec::new();
        for answer in answers.collect::<Vec<_>>() {
            statuses.push(answer.await.unwrap());
        }
        statuses
    };
    assert_eq!(run(QueuePlan::default()).await, [200; 4]);
    let without = run(QueuePlan::none()).await;
    assert!(without.contains(&503), "{without:?}");
}

#[tokio::test]
async fn whoever_leaves_the_queue_gives_up_the_place_and_the_next_is_served() {
    let mock = slow_mock(20, 100.0).await;
    let gateway = Gateway::start(&one_at_a_time(&mock.url()), ServerSettings::default()).await.unwrap();
    let address = gateway.address();
    let first = open(address, false, &[], &streamed(20)).await;
    let leaving = tokio::spawn(async move { post(address, &[], &chat(5)).await.status });
    until(|| gateway.waiting() == 1).await;
    let staying = tokio::spawn(async move { post(address, &[], &chat(5)).await.status });
    until(|| gateway.waiting() == 2).await;
    leaving.abort();
    until(|| gateway.waiting() == 1).await;
    assert_eq!(read(first).await.status, 200);
    assert_eq!(staying.await.unwrap(), 200);
    assert_eq!((gateway.waiting(), mock.requests()), (0, 2));
}

#[tokio::test]
async fn a_stream_that_is_quiet_gives_its_place_to_another_and_takes_it_again() {
    // A word every 2 s.
    let mock = slow_mock(3, 0.5).await;
    let mut plan = one_at_a_time(&mock.url());
    plan.server.stream_quiet_after = Duration::from_millis(50);
    let gateway = gateway(&plan).await;
    let in_flight = || {
        let scraped = gateway.engine().scrape(traflux_core::Timestamp::ZERO, Format::Prometheus);
        let line = scraped.lines().find(|line| line.contains("in_flight") && !line.starts_with('#'));
        line.unwrap().rsplit_once(' ').unwrap().1.to_owned()
    };
    let mut quiet = open(gateway.address(), false, &[], &streamed(3)).await.into_body();
    quiet.frame().await.unwrap().unwrap();
    until(|| in_flight() == "0").await;
    let other = open(gateway.address(), false, &[], &streamed(1)).await;
    assert_eq!(other.status(), 200, "the place of a quiet stream was kept");
    // Both go on to their ends, and nothing stays behind.
    assert_eq!(read(other).await.status, 200);
    while let Some(frame) = quiet.frame().await {
        frame.unwrap();
    }
    until(|| in_flight() == "0").await;
    assert_eq!(gateway.tally().row("default", "only").of(Outcome::Success), 2);
}

#[tokio::test]
async fn http2_is_spoken_on_both_sides() {
    let mock = mock().await;
    let mut plan = to(&mock.url());
    plan.backends.get_mut("only").unwrap().http2 = true;
    let gateway = gateway(&plan).await;
    let response = open(gateway.address(), true, &[], &streamed(5)).await;
    assert_eq!(response.version(), http::Version::HTTP_2);
    let answer = read(response).await;
    assert_eq!(answer.status, 200);
    assert!(answer.body.ends_with("data: [DONE]\n\n"));
    assert_eq!(gateway.tally().row("default", "only").usage().output, 5);
}

#[tokio::test]
async fn a_backend_sees_its_own_key_and_who_asked_and_nothing_of_the_connection() {
    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nkeep-alive: timeout=1\r\nx-own: 1\r\nconnection: x-hop\r\nx-hop: 1\r\n\r\nok";
    let (address, mut heads) = scripted(answer).await;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "upstream-secret\n").unwrap();
    let json = format!(
        r#"{{"backends": {{"only": {{"url": "http://{address}/base", "key": {{"file": {:?}}}}}}},
        "routing": {{"default": {{"backend": "only"}}}}}}"#,
        file.path()
    );
    let gateway = gateway(&plan(&json)).await;
    let headers = [
        ("authorization", "Bearer of-the-client"),
        ("x-forwarded-for", "10.0.0.1"),
        ("te", "gzip"),
        ("x-kept", "yes"),
        ("accept-encoding", "gzip, br"),
        ("proxy-authorization", "x"),
    ];
    let answer = post(gateway.address(), &headers, &chat(5)).await;
    let head = heads.recv().await.unwrap().to_ascii_lowercase();
    assert!(head.starts_with("post /base/v1/chat/completions http/1.1\r\n"), "{head}");
    for expected in [
        "authorization: bearer upstream-secret\r\n",
        "x-forwarded-for: 10.0.0.1, 127.0.0.1\r\n",
        "x-forwarded-proto: http\r\n",
        "x-kept: yes\r\n",
        "accept-encoding: identity\r\n",
        &format!("host: {address}\r\n"),
    ] {
        assert!(head.contains(expected), "{expected} is not in {head}");
    }
    for hidden in ["of-the-client", "\r\nte:", "proxy-authorization"] {
        assert!(!head.contains(hidden), "{hidden} is in {head}");
    }
    assert_eq!((answer.status, answer.body.as_str()), (200, "ok"));
    assert_eq!(answer.headers["x-own"], "1");
    assert!(!answer.headers.contains_key("x-hop") && !answer.headers.contains_key("keep-alive"));
}

#[tokio::test]
async fn a_client_that_leaves_a_stream_ends_it_at_the_backend_and_pays_for_what_it_saw() {
    let mock = slow_mock(1000, 50.0).await;
    let gateway = gateway(&plan(&LIMITED.replace("URL", &mock.url()))).await;
    let mut body = open(gateway.address(), false, &[], &streamed(800)).await.into_body();
    for _ in 0..3 {
        body.frame().await.unwrap().unwrap();
    }
    assert_eq!(mock.open(), 1);
    drop(body);
    until(|| mock.open() == 0).await;
    let row = gateway.tally().row("default", "only");
    until(|| row.of(Outcome::Cancelled) == 1).await;
    let seen = row.usage().output;
    assert!((3..100).contains(&seen), "{seen}");
    // What was not used came back.
    assert_eq!(post(gateway.address(), &[], &chat(850)).await.status, 200);
}

#[tokio::test]
async fn the_administrative_side_tells_and_changes_only_with_its_token() {
    let mock = mock().await;
    let mut plan = plan(&LIMITED.replace("URL", &mock.url()));
    plan.server.admin = Some("127.0.0.1:0".into());
    let key = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(key.path(), "token").unwrap();
    let source = traflux_core::plan::backend::KeySource::File(key.path().to_str().unwrap().into());
    plan.server.admin_key = Some(source);
    let gateway = gateway(&plan).await;
    let admin = gateway.admin_address().unwrap();
    post(gateway.address(), &[], &chat(5)).await;
    let get = async |path: &str| {
        crate::common::raw(
            admin,
            format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes(),
        )
        .await
    };
    assert!(get("/healthz").await.starts_with("HTTP/1.1 200"));
    assert!(get("/readyz").await.starts_with("HTTP/1.1 200"));
    let metrics = get("/metrics").await;
    assert!(
        metrics
            .contains(r#"traflux_gateway_attempts_total{rule="default",backend="only",outcome="success"} 1"#)
    );
    assert!(get("/levels?tenant=").await.contains("limit tpm:"));
    let send = async |path: &str, key: &str, body: &str| {
        let request = format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer {key}\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        crate::common::raw(admin, request.as_bytes()).await
    };
    let explained = send("/explain", "", r#"{"path": "/v1/chat/completions", "model": "m"}"#).await;
    assert!(explained.contains("chosen by adaptive among") && explained.contains("only"), "{explained}");
    let mut next = plan.clone();
    next.limits[0].amount = 10.0;
    let next = serde_json::to_string(&next).unwrap();
    assert!(send("/reload", "guess", &next).await.starts_with("HTTP/1.1 401"));
    assert_eq!(post(gateway.address(), &[], &chat(5)).await.status, 200);
    assert!(send("/reload", "token", "{}").await.starts_with("HTTP/1.1 422"));
    assert!(send("/reload", "token", &next).await.starts_with("HTTP/1.1 200"));
    assert_eq!(post(gateway.address(), &[], &chat(50)).await.status, 413);
}
