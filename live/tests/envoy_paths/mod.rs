//! Is a path one thing to Envoy's rules and to the backend behind it, and the same as in the engine, however written?

use serde_json::json;
use traflux_core::plan::requests::RequestPlan;
use traflux_gateway::rule::normal_path;
use traflux_gateway::{Matcher, Request, Rng};

use crate::envoy_rig::{Backend, Envoy};

/// Ways to write segments.
const SEGMENTS: [&str; 30] = [
    "admin",
    "%61dmin",
    "adm%69n",
    "%61%64%6d%69%6e",
    "%41dmin",
    "public",
    "p%75blic",
    "a",
    "b.c",
    ".",
    "..",
    "%2e",
    "%2E%2e",
    ".%2e",
    "%2e.",
    "...",
    ".a",
    "a.",
    "..a",
    "",
    "%2f",
    "%2F..",
    "a%2fb",
    "%20",
    "a+b",
    "~",
    "%7e",
    "%25",
    "%5f-",
    "x;y=1",
];

#[test]
#[ignore = "needs an Envoy: set ENVOY to its path"]
fn every_way_to_write_a_path_meets_one_rule_and_reaches_the_backend_in_one_form() {
    let [admin, public] = ["admin", "public"].map(Backend::start);
    let plan: RequestPlan = serde_json::from_value(json!({
        "routing": {
            "rules": [
                {"name": "admin", "match": {"path": "/admin"}, "route": {"backend": "admin"}},
                {"name": "hidden", "match": {"path": {"prefix": "/public/.a"}}, "route": {"backend": "admin"}}
            ],
            "default": {"backend": "public"}
        },
        "backends": {"admin": {"url": admin.url()}, "public": {"url": public.url()}}
    }))
    .unwrap();
    let matcher = Matcher::new(plan.routing.rules.iter().map(|rule| &rule.matches)).unwrap();
    let envoy = Envoy::start(plan);
    let mut draw = Rng::new(20_261_126);
    let mut paths: Vec<String> =
        ["/public/../admin", "/public/%2e%2e/admin", "/%61dmin", "/..", "/.", "/a/.."]
            .map(str::to_owned)
            .to_vec();
    while paths.len() < 1500 {
        let length = 1 + draw.next_u64() % 4;
        let segment = |_| SEGMENTS[(draw.next_u64() % SEGMENTS.len() as u64) as usize];
        paths.push(format!("/{}", (0..length).map(segment).collect::<Vec<_>>().join("/")));
    }
    let (mut differences, mut guarded, mut rewritten) = (Vec::new(), 0, 0);
    for path in paths {
        let form = normal_path(&path);
        let expected =
            matcher.first(&Request { path: &form, ..Request::default() }).map_or("public", |_| "admin");
        let answer = envoy.get(&format!("{path}?q=%61"));
        let mut lines = answer.body.lines();
        let found = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
        (guarded, rewritten) =
            (guarded + usize::from(expected == "admin"), rewritten + usize::from(form != path));
        if answer.status != 200 || found != (expected, &format!("GET {form}?q=%61")) {
            differences.push(format!("{path}: engine {expected} {form}, Envoy {} {found:?}", answer.status));
        }
    }
    eprintln!("1500 paths, {rewritten} written otherwise than in their form, {guarded} that a rule guards");
    assert!(guarded > 100 && rewritten > 300, "{guarded} {rewritten}");
    assert!(differences.is_empty(), "{} differ:\n{}", differences.len(), differences.join("\n"));
}
