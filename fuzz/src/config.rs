//! Does every text end in a plan that an engine can follow, or in an error that names what is wrong?

use serde_json::Value;
use traflux_core::Timestamp;
use traflux_core::plan::requests::RequestPlan;
use traflux_gateway::{Engine, EngineSettings, IdentityTable, review};

/// A configuration as people write it.
pub fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Some(plan) = read(text) else { return };
    let again = serde_json::to_string(&plan).expect("a plan can be written");
    let again: RequestPlan = serde_json::from_str(&again).unwrap_or_else(|e| panic!("{e}: {again}"));
    assert_eq!(again, plan, "written and read again, it is another plan");
    let valid = plan.validate();
    let findings = review(&plan);
    let _ = findings.iter().map(|finding| finding.to_string().len()).sum::<usize>();
    let settings = EngineSettings::default();
    let engine = Engine::new(&plan, &settings, Timestamp::ZERO);
    match engine {
        Ok(engine) => {
            assert_eq!(valid, Ok(()));
            assert_eq!(*engine.plan(), plan);
            engine.reload(&plan, &settings, Timestamp::ZERO).expect("a plan that was taken is taken again");
        }
        Err(error) => assert!(!error.to_string().is_empty() && !error.code().is_empty()),
    }
    let _ = IdentityTable::new(&plan.identity).map_err(|error| error.to_string());
}

/// As the program reads a file: YAML into a value, then the plan.
fn read(text: &str) -> Option<RequestPlan> {
    let value: Value = serde_saphyr::from_str(text).map_err(|error| error.to_string()).ok()?;
    serde_path_to_error::deserialize(value).map_err(|error| error.to_string()).ok()
}
