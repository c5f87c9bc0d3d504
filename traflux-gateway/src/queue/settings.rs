//! What does a queue promise, to whom?

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::GatewayError;
use crate::units::millis;

/// The settings of a [`RequestQueue`](super::RequestQueue).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct QueueSettings {
    /// How much may wait.
    pub limits: Limits,
    /// The bands, best first; 1 to 16. Minimum shares sum to at most 1.
    pub bands: Vec<BandSettings>,
    /// Which requests belong into which band; the first that matches counts, without a match the last band.
    pub classes: Vec<BandClass>,
    /// Tokens that a tenant of weight 1 may send per round. Smaller is fairer at short times, larger gives
    /// deadlines more freedom across tenants.
    pub quantum_tokens: u64,
    /// A tenant may hold this multiple of the room that is free, or that its band could push others out of (A. Choudhury, E. Hahne, "Dynamic queue length thresholds
    /// for shared-memory packet switches", IEEE/ACM ToN 6(2), 1998): one greedy tenant fills `a / (1 + a)` of the
    /// queue, and always leaves room for others. `None`: no bound. Only in bands that are fair.
    pub tenant_threshold: Option<f64>,
    /// Tenants are numbers below this.
    pub max_tenants: u32,
    /// Refuse at once what will probably not start in time, instead of letting it wait in vain.
    pub refuse_hopeless: bool,
    /// Tokens per second that the service can do, believed until it was measured.
    pub expected_tokens_per_second: Option<f64>,
    /// Over which time the service rate is measured.
    #[serde(rename = "rate_memory_ms", with = "millis")]
    pub rate_memory: Duration,
}

/// How much may wait in a queue, over all bands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Requests, less than 2²²; room for them is allocated at construction.
    pub max_items: u32,
    /// Bytes held for them.
    pub max_bytes: u64,
    /// Their expected tokens, at most 2⁴⁰.
    pub max_tokens: u64,
}

/// One band of a queue.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BandSettings {
    /// For classes and metrics.
    pub name: String,
    /// The fraction of the tokens that this band gets whenever it waits, whatever better bands want; also the
    /// fraction of the room that better bands leave to it.
    pub minimum_share: f64,
    /// Who is next, inside a tenant; and across tenants inside a round where the order has a key.
    pub order: Order,
    /// Whether tenants share the band by deficit round robin. If not, `order` holds across all tenants.
    pub fair: bool,
    /// The longest wait from enqueue to dispatch, at most a day.
    #[serde(rename = "max_wait_ms", with = "millis")]
    pub max_wait: Duration,
    /// The band is *standing* when it has not been empty for this long.
    #[serde(rename = "standing_after_ms", with = "millis")]
    pub standing_after: Duration,
    /// What joins a standing band waits at most this long: the controlled delay of request queues (K. Nichols,
    /// V. Jacobson, "Controlling queue delay", ACM Queue 10(5), 2012; for requests B. Maurer, "Fail at scale",
    /// ACM Queue 13(8), 2015). `None`: `max_wait` holds always.
    pub shed: Option<Shed>,
    /// Of [`Order::ValueDensity`].
    pub value: ValueOrder,
}

/// What joins a standing band waits at most this long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shed {
    /// The longest wait in a standing band.
    #[serde(rename = "target_ms", with = "millis")]
    pub target: Duration,
}

/// Who is next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// First come, first served.
    Fcfs,
    /// The newest first while the band is standing, so that some are in time instead of all late; else first come,
    /// first served (B. Maurer, "Fail at scale", ACM Queue 13(8), 2015).
    AdaptiveLifo,
    /// Earliest deadline first (C. Liu, J. Layland, JACM 20(1), 1973). The longest wait counts as a deadline, so
    /// that what has none is served in order of arrival and never starves.
    #[default]
    EarliestDeadline,
    /// Least laxity first: by the latest start, deadline less expected service time.
    LeastLaxity,
    /// Most value per token first (the rule of W. Smith, "Various optimizers for single-stage production", 1956),
    /// with aging: see [`ValueOrder`].
    ValueDensity,
}

/// How far value goes before age.
///
/// A request is served as if it had come `head_start · value / (tokens / 1000)` earlier, at most `max_head_start`.
/// That is the order by `density + wait / head_start`, linear aging, as a key that does not change while waiting. A
/// request waits for no other that comes more than `max_head_start` after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ValueOrder {
    /// What one unit of value per 1000 tokens is worth in waiting time.
    #[serde(rename = "head_start_ms", with = "millis")]
    pub head_start: Duration,
    /// The most that any value is worth.
    #[serde(rename = "max_head_start_ms", with = "millis")]
    pub max_head_start: Duration,
}

/// Requests that belong into a band; what is `None` matches all.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BandClass {
    /// The tier of the user.
    pub tier: Option<String>,
    /// The type of the request: chat, embedding, batch, ...
    pub request_type: Option<String>,
    /// The name of the band.
    pub band: String,
}

impl Default for QueueSettings {
    fn default() -> Self {
        let band = |name: &str, minimum_share, max_wait| BandSettings {
            name: name.into(),
            minimum_share,
            max_wait: Duration::from_secs(max_wait),
            ..BandSettings::default()
        };
        Self {
            limits: Limits::default(),
            bands: vec![
                BandSettings {
                    shed: Some(Shed { target: Duration::from_secs(1) }),
                    ..band("interactive", 0.5, 30)
                },
                band("standard", 0.2, 60),
                band("batch", 0.05, 600),
            ],
            classes: ["interactive", "batch"]
                .map(|name| BandClass { tier: None, request_type: Some(name.into()), band: name.into() })
                .into_iter()
                .chain([BandClass { band: "standard".into(), ..BandClass::default() }])
                .collect(),
            quantum_tokens: 4096,
            tenant_threshold: Some(4.0),
            max_tenants: 1 << 20,
            refuse_hopeless: true,
            expected_tokens_per_second: None,
            rate_memory: Duration::from_secs(10),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_items: 10_000, max_bytes: 1 << 30, max_tokens: 1 << 30 }
    }
}

impl Default for BandSettings {
    fn default() -> Self {
        Self {
            name: "default".into(),
            minimum_share: 0.0,
            order: Order::default(),
            fair: true,
            max_wait: Duration::from_secs(30),
            standing_after: Duration::from_secs(5),
            shed: None,
            value: ValueOrder::default(),
        }
    }
}

impl Default for ValueOrder {
    fn default() -> Self {
        Self { head_start: Duration::from_secs(1), max_head_start: Duration::from_secs(30) }
    }
}

impl QueueSettings {
    /// One band without minimum share, fairness or deadlines: first come, first served.
    #[must_use]
    pub fn first_come_first_served() -> Self {
        Self {
            bands: vec![BandSettings { order: Order::Fcfs, fair: false, ..BandSettings::default() }],
            classes: Vec::new(),
            ..Self::default()
        }
    }

    /// The band of a request: the first class that matches, else the last band.
    #[must_use]
    pub fn band_of(&self, tier: &str, request_type: &str) -> u8 {
        self.band(self.class_of(tier, request_type))
    }

    /// The class of a request.
    pub(crate) fn class_of(&self, tier: &str, request_type: &str) -> Option<usize> {
        let fits = |pattern: &Option<String>, text: &str| pattern.as_deref().is_none_or(|p| p == text);
        self.classes.iter().position(|c| fits(&c.tier, tier) && fits(&c.request_type, request_type))
    }

    /// The band of a class; the last where there is none.
    pub(crate) fn band(&self, class: Option<usize>) -> u8 {
        class
            .and_then(|ix| self.bands.iter().position(|b| b.name == self.classes[ix].band))
            .unwrap_or(self.bands.len().saturating_sub(1)) as u8
    }

    /// Checks what the types cannot say.
    ///
    /// # Errors
    /// [`GatewayError::Setting`] with the first setting that is out of range.
    pub fn validate(&self) -> Result<(), GatewayError> {
        let Limits { max_items, max_bytes, max_tokens } = self.limits;
        check("limits.max_items", max_items, (1..1 << 22).contains(&max_items), "1 to 4194303")?;
        check("limits.max_bytes", max_bytes, max_bytes < 1 << 63, "less than 2^63")?;
        check("limits.max_tokens", max_tokens, (1..=1 << 40).contains(&max_tokens), "1 to 2^40")?;
        let quantum = self.quantum_tokens;
        check("quantum_tokens", quantum, (1..=1 << 40).contains(&quantum), "1 to 2^40")?;
        let tenants = self.max_tenants;
        check("max_tenants", tenants, (1..=1 << 30).contains(&tenants), "1 to 2^30")?;
        if let Some(a) = self.tenant_threshold {
            // The upper bound keeps products with 2⁴⁰ tokens inside 64 bits.
            let fits = (1.0 / 256.0..=4_096.0).contains(&a);
            check("tenant_threshold", a, fits, "1/256 to 4096")?;
        }
        if let Some(rate) = self.expected_tokens_per_second {
            check("expected_tokens_per_second", rate, rate.is_finite() && rate > 0.0, "more than 0")?;
        }
        let memory = self.rate_memory;
        check("rate_memory_ms", memory.as_millis(), !memory.is_zero(), "more than 0")?;
        let count = self.bands.len();
        check("bands", count, (1..=16).contains(&count), "1 to 16 bands")?;
        for (b, band) in self.bands.iter().enumerate() {
            let key = |name: &str| format!("bands[{b}].{name}");
            let share = band.minimum_share;
            check(&key("minimum_share"), share, (0.0..=1.0).contains(&share), "0 to 1")?;
            let twin = self.bands[..b].iter().any(|other| other.name == band.name);
            check(&key("name"), &band.name, !twin, "a name of its own")?;
            let day = Duration::from_secs(86_400);
            let wait = band.max_wait;
            let fits = !wait.is_zero() && wait <= day;
            check(&key("max_wait_ms"), wait.as_millis(), fits, "more than 0, at most a day")?;
            if let Some(Shed { target }) = band.shed {
                let fits = !target.is_zero() && target <= wait;
                check(&key("shed.target_ms"), target.as_millis(), fits, "more than 0, at most max_wait_ms")?;
            }
            let most = band.value.max_head_start;
            check(&key("value.max_head_start_ms"), most.as_millis(), most <= day, "at most a day")?;
        }
        let sum: f64 = self.bands.iter().map(|b| b.minimum_share).sum();
        // 1e-9: ten bands of 0.1 do not sum to exactly 1 in binary.
        check("bands: sum of minimum_share", sum, sum <= 1.0 + 1e-9, "at most 1")?;
        for (c, class) in self.classes.iter().enumerate() {
            let known = self.bands.iter().any(|b| b.name == class.band);
            check(&format!("classes[{c}].band"), &class.band, known, "the name of a band")?;
        }
        Ok(())
    }
}

fn check(
    setting: &str,
    value: impl ToString,
    holds: bool,
    expected: &'static str,
) -> Result<(), GatewayError> {
    if holds {
        return Ok(());
    }
    Err(GatewayError::setting(setting.to_owned(), value, expected))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid_and_survive_a_round_trip() {
        for settings in [QueueSettings::default(), QueueSettings::first_come_first_served()] {
            settings.validate().unwrap();
            let text = serde_json::to_string(&settings).unwrap();
            assert_eq!(serde_json::from_str::<QueueSettings>(&text).unwrap(), settings);
        }
        assert_eq!(serde_json::from_str::<QueueSettings>("{}").unwrap(), QueueSettings::default());
        assert!(serde_json::from_str::<QueueSettings>(r#"{"quantum": 3}"#).is_err());
    }

    #[test]
    fn what_is_out_of_range_is_named_with_its_value() {
        let refused = |change: fn(&mut QueueSettings)| {
            let mut settings = QueueSettings::default();
            change(&mut settings);
            settings.validate().unwrap_err().to_string()
        };
        assert_eq!(
            refused(|s| s.bands[1].minimum_share = 1.0),
            "`bands: sum of minimum_share` is 1.55, expected at most 1"
        );
        assert!(refused(|s| s.bands[1].minimum_share = f64::NAN).contains("NaN"));
        assert!(refused(|s| s.bands.clear()).contains("1 to 16"));
        assert!(refused(|s| s.limits.max_items = 0).contains("max_items is 0"));
        assert!(refused(|s| s.bands[2].max_wait = Duration::ZERO).contains("bands[2].max_wait_ms"));
        assert!(refused(|s| s.classes[0].band = "gold".into()).contains("gold"));
        assert!(refused(|s| s.bands[1].name = "batch".into()).contains("bands[2].name"));
    }

    #[test]
    fn tier_and_type_choose_the_band() {
        let mut settings = QueueSettings::default();
        let class = BandClass { tier: Some("gold".into()), request_type: None, band: "interactive".into() };
        settings.classes.insert(0, class);
        assert_eq!(settings.band_of("gold", "batch"), 0);
        assert_eq!(settings.band_of("free", "interactive"), 0);
        assert_eq!(settings.band_of("free", "chat"), 1);
        assert_eq!(settings.band_of("free", "batch"), 2);
        settings.classes.clear();
        assert_eq!(settings.band_of("free", "chat"), 2);
    }
}
