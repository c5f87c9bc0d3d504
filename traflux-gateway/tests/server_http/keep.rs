//! Budgets over a restart.

use std::path::Path;

use traflux_core::plan::requests::RequestPlan;
use traflux_gateway::server::{Gateway, ServerSettings};

use crate::common::{PATIENCE, chat, gateway, mock, plan, post, slow_mock};

/// 100 output tokens a day in all, of which one chat of 60 leaves 40, and requests that nobody keeps.
fn budget(url: &str, levels: Option<&Path>) -> RequestPlan {
    let mut plan = plan(&format!(
        r#"{{"backends": {{"only": {{"url": "{url}"}}}}, "routing": {{"default": {{"backend": "only"}}}},
            "limits": [
                {{"name": "day", "unit": "output_tokens", "amount": 100, "period_ms": 86400000,
                  "shape": "fixed_window", "by": "tenant", "persistent": true}},
                {{"name": "minute", "unit": "requests", "amount": 2}}]}}"#
    ));
    plan.server.levels_file = levels.map(|path| path.to_str().unwrap().to_owned());
    plan
}

async fn end(gateway: Gateway) {
    tokio::time::timeout(PATIENCE, gateway.drain()).await.unwrap();
}

#[tokio::test]
async fn what_was_used_of_a_persistent_limit_is_used_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("levels");
    // Answers with 60 tokens, or fewer where fewer are asked for.
    let mock = slow_mock(60, 1e6).await;
    let plan = budget(&mock.url(), Some(&file));
    let first = gateway(&plan).await;
    assert_eq!(post(first.address(), &[], &chat(60)).await.status, 200);
    end(first).await;
    assert!(!std::fs::read_to_string(&file).unwrap().contains("minute"), "nobody asked to keep that one");

    let second = gateway(&plan).await;
    let refused = post(second.address(), &[], &chat(60)).await;
    assert_eq!((refused.status, refused.code().as_str()), (429, "limited"));
    assert_eq!(post(second.address(), &[], &chat(40)).await.status, 200, "40 are left");
    end(second).await;

    let bytes = std::fs::read(&file).unwrap();
    std::fs::write(&file, &bytes[..bytes.len() - 3]).unwrap();
    let damaged = Gateway::start(&plan, ServerSettings::default()).await.unwrap_err();
    assert_eq!(damaged.code(), "gateway_level_store_damaged", "a budget never begins anew unnoticed");
}

#[tokio::test]
async fn a_file_of_levels_belongs_to_one_gateway() {
    let folder = tempfile::tempdir().unwrap();
    let mock = mock().await;
    let plan = budget(&mock.url(), Some(&folder.path().join("levels")));
    let one = gateway(&plan).await;
    let error = Gateway::start(&plan, ServerSettings::default()).await.unwrap_err();
    assert_eq!(error.code(), "gateway_level_store_busy");
    let moved = budget(&mock.url(), Some(&folder.path().join("other")));
    assert_eq!(one.reload(&moved).unwrap_err().code(), "gateway_needs_restart");
    end(one).await;
    end(gateway(&plan).await).await;
}

#[tokio::test]
async fn a_budget_that_shall_be_kept_needs_a_place() {
    let mock = mock().await;
    let error = Gateway::start(&budget(&mock.url(), None), ServerSettings::default()).await.unwrap_err();
    let expected = "limits[0].persistent: needs server.levels_file, where levels are kept";
    assert_eq!(error.to_string(), expected);
    let folder = tempfile::tempdir().unwrap();
    let nowhere = budget(&mock.url(), Some(&folder.path().join("missing/levels")));
    let error = Gateway::start(&nowhere, ServerSettings::default()).await.unwrap_err();
    assert_eq!(error.code(), "gateway_level_store", "found at the start, not at the end");
}
