//! What a plan says of tokens before they are counted, and what clients who are refused are told.

use traflux_core::plan::requests::RequestPlan;

use crate::common::{gateway, mock, plan, post, raw};

/// 50 tokens a minute, in and out, for a body of 43 bytes.
fn limited(url: &str, keys: &str) -> RequestPlan {
    plan(&format!(
        r#"{{"backends": {{"only": {{"url": "{url}"}}}}, "routing": {{"default": {{"backend": "only"}}}},
            "limits": [{{"name": "few", "unit": "tokens", "amount": 50}}] {keys}}}"#
    ))
}

const PROMPT: &str = r#"{"model": "small-1", "prompt": "123456789"}"#;

#[tokio::test]
async fn tokens_are_estimated_as_the_plan_says_by_model() {
    let mock = mock().await;
    for (tokens, status) in [
        // An answer of 4096 tokens, as usual, never fits the limit.
        (r#"{}"#, 413),
        // 43 bytes are 43 tokens, and 8 of answer.
        (r#"{"bytes_per_token": 1, "default_output_tokens": 8}"#, 413),
        (r#"{"bytes_per_token": 1, "default_output_tokens": 7}"#, 200),
        (r#"{"default_output_tokens": 60, "models": {"small-*": {"default_output_tokens": 10}}}"#, 200),
        (r#"{"default_output_tokens": 10, "models": {"small-*": {"bytes_per_token": 0.2}}}"#, 413),
    ] {
        let gateway = gateway(&limited(&mock.url(), &format!(r#", "tokens": {tokens}"#))).await;
        assert_eq!(post(gateway.address(), &[], PROMPT).await.status, status, "{tokens}");
    }
}

#[tokio::test]
async fn who_is_refused_is_told_of_limits_in_the_headers_that_the_plan_names() {
    let mock = mock().await;
    for (style, header) in [
        ("words", Some("x-ratelimit-limit-tokens")),
        ("draft", Some("ratelimit-policy")),
        ("legacy", Some("ratelimit-limit")),
        ("none", None),
    ] {
        let keys = format!(
            r#", "tokens": {{"default_output_tokens": 39}}, "server": {{"limit_headers": "{style}"}}"#
        );
        let gateway = gateway(&limited(&mock.url(), &keys)).await;
        assert_eq!(post(gateway.address(), &[], PROMPT).await.status, 200);
        let refused = post(gateway.address(), &[], PROMPT).await;
        assert_eq!(refused.status, 429);
        assert!(refused.headers.contains_key("retry-after"), "{style}");
        let said: Vec<_> =
            refused.headers.keys().filter(|name| name.as_str().contains("ratelimit")).collect();
        assert_eq!(
            said.iter().any(|name| Some(name.as_str()) == header),
            header.is_some(),
            "{style}: {said:?}"
        );
        assert_eq!(said.is_empty(), header.is_none(), "{style}: {said:?}");
    }
}

#[tokio::test]
async fn what_is_left_at_a_backend_is_told_to_operators_and_to_no_client() {
    let mock = mock().await;
    let mut plan = plan(&format!(
        r#"{{"backends": {{"only": {{"url": "{}"}}}}, "routing": {{"default": {{"backend": "only"}}}},
            "tokens": {{"default_output_tokens": 39}}, "limits": [
                {{"name": "few", "unit": "tokens", "amount": 50}},
                {{"name": "each", "unit": "requests", "amount": 1000, "by": "backend", "shape": "fixed_window",
                  "period_ms": 3600000}}]}}"#,
        mock.url()
    ));
    plan.server.admin = Some("127.0.0.1:0".into());
    let gateway = gateway(&plan).await;
    assert_eq!(post(gateway.address(), &[], PROMPT).await.status, 200);
    let refused = post(gateway.address(), &[], PROMPT).await;
    assert_eq!(refused.status, 429);
    assert!(refused.headers.contains_key("x-ratelimit-limit-tokens"));
    assert!(!refused.headers.contains_key("x-ratelimit-limit-requests"));
    let request = b"GET /levels HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let levels = raw(gateway.admin_address().unwrap(), request).await;
    assert!(levels.contains("limit each at only: 999 of 1000 left\n"), "{levels}");
}
