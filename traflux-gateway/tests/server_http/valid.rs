//! A check and a start refuse the same.

use traflux_core::plan::requests::RequestPlan;
use traflux_gateway::server::{Gateway, ServerSettings, validate};

use crate::common::plan;

fn with(more: &str) -> RequestPlan {
    plan(&format!(
        r#"{{"backends": {{"only": {{"url": "http://127.0.0.1:1"}}}}, "routing": {{"default": {{"backend": "only"}}}}{more}}}"#
    ))
}

#[tokio::test]
async fn what_a_start_refuses_a_check_refuses_in_the_same_words() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let server = |change: &dyn Fn(&mut RequestPlan)| {
        let mut plan = with("");
        change(&mut plan);
        plan
    };
    let damaged = file("damaged", "traflux-levels 1\nnonsense\n");
    let limit = |more: &str| {
        with(&format!(r#", "limits": [{{"name": "l", "unit": "requests", "amount": 5{more}}}]"#))
    };
    let cases: Vec<(&str, RequestPlan, &str)> = vec![
        ("nothing wrong", with(""), ""),
        (
            "a public administrative side without a token",
            server(&|plan| plan.server.admin = Some("0.0.0.0:0".into())),
            "gateway_listen",
        ),
        ("no address", server(&|plan| plan.server.listen = "nowhere".into()), "gateway_listen"),
        (
            "no administrative address",
            server(&|plan| plan.server.admin = Some("127.0.0.1".into())),
            "gateway_listen",
        ),
        ("persistent without a place", limit(r#", "persistent": true"#), "plan_key"),
        (
            "levels in a folder that is not there",
            server(&|plan| {
                plan.server.levels_file = Some(folder.path().join("no/levels").to_str().unwrap().into())
            }),
            "gateway_level_store",
        ),
        (
            "levels in a folder that takes no file",
            server(&|plan| plan.server.levels_file = Some("/proc/levels".into())),
            "gateway_level_store",
        ),
        (
            "one port for clients and administration",
            server(&|plan| {
                plan.server.listen = "0.0.0.0:8079".into();
                plan.server.admin = Some("127.0.0.1:8079".into());
            }),
            "plan_key",
        ),
        (
            "a request that has no time",
            server(&|plan| plan.server.request_timeout = std::time::Duration::ZERO),
            "plan_key",
        ),
        (
            "levels that are damaged",
            server(&|plan| plan.server.levels_file = Some(damaged.clone())),
            "gateway_level_store_damaged",
        ),
        (
            "a wait that a sliding window cannot keep",
            limit(r#", "shape": "sliding_window", "max_wait_ms": 100"#),
            "gateway_setting",
        ),
        ("a backend without URL", server(&|plan| plan.backends.clear()), "plan_key"),
        (
            "a backend without host",
            server(&|plan| plan.backends.get_mut("only").unwrap().url[0].url = "http://?x".into()),
            "plan_key",
        ),
        (
            "a key that is nowhere",
            with(r#", "identity": {"jwt": {"keys": {"file": "/nowhere/at/all"}}}"#),
            "gateway_secret",
        ),
        ("claims from nowhere", with(r#", "identity": {"trusted_claims": {"tenant": "org"}}"#), "plan_key"),
        (
            "a hash twice",
            with(
                r#", "identity": {"api_keys": [
            {"name": "a", "sha256": "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b", "tenant": "t"},
            {"name": "b", "sha256": "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b", "tenant": "t"}]}"#,
            ),
            "plan_key",
        ),
        (
            "a certificate that is nowhere",
            with(
                r#", "server": {"listen": "127.0.0.1:0", "tls": {"certificate_file": "/nowhere", "key_file": "/nowhere"}}"#,
            ),
            "gateway_certificate",
        ),
        (
            "a pattern that does not compile",
            with(
                r#", "limits": [{"name": "l", "unit": "requests", "amount": 5, "match": {"headers": {"x": {"regex": "("}}}}]"#,
            ),
            "gateway_pattern",
        ),
        (
            "a probe that cannot be asked",
            with(r#", "health": {"probe": {"probe": {"kind": "http", "path": "/x", "method": "A B"}}}"#),
            "plan_key",
        ),
    ];
    let settings = ServerSettings::default();
    for (what, mut plan, expected) in cases {
        if plan.server.listen.ends_with(":8080") {
            plan.server.listen = "127.0.0.1:0".into();
        }
        let checked = validate(&plan, &settings).err().map(|error| (error.code(), error.to_string()));
        let started = Gateway::start(&plan, settings.clone()).await;
        let started = started.err().map(|error| (error.code(), error.to_string()));
        assert_eq!(checked, started, "{what}");
        assert_eq!(checked.as_ref().map_or("", |(code, _)| code), expected, "{what}: {checked:?}");
    }
}

#[tokio::test]
async fn a_check_does_not_mind_a_gateway_that_runs() {
    let folder = tempfile::tempdir().unwrap();
    let mut plan = with("");
    plan.server.levels_file = Some(folder.path().join("levels").to_str().unwrap().into());
    let gateway = Gateway::start(&plan, ServerSettings::default()).await.unwrap();
    plan.server.listen = gateway.address().to_string();
    assert_eq!(validate(&plan, &ServerSettings::default()), Ok(()));
    let mut names: Vec<_> = folder.path().read_dir().unwrap().map(|file| file.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["levels", "levels.lock"], "a check leaves nothing behind");
}
