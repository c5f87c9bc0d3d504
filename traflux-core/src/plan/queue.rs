//! Who may wait when there is no room, how long, and who goes first?

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::form::{millis, one_or_many};
use super::range::{check, check_positive, in_millis};
use crate::error::PlanError;

/// A queue before each set of backends: requests that find no room wait there until one ends, in bands, best first.
///
/// Where a plan says nothing of it, there is one with these defaults: bursts that outlast the room of the backends by
/// moments are served late rather than refused, and everything that waits is bounded in number, size and time.
/// [`QueuePlan::none`] (`max_waiting: 0`) lets nobody wait.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct QueuePlan {
    /// Requests that may wait, less than 2²²; room for them is allocated beforehand. 0 for none; 10,000.
    pub max_waiting: u32,
    /// Bytes that may be held for them; 1 GiB.
    pub max_bytes: u64,
    /// Their expected tokens, at most 2⁴⁰; 2³⁰.
    pub max_tokens: u64,
    /// The bands, best first; 1 to 16. Minimum shares sum to at most 1.
    pub bands: Vec<BandPlan>,
    /// Header in which a client says, in milliseconds, how long an answer is of use to it; none. It can only shorten the
    /// time that it would have anyway.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline_header: Option<String>,
    /// Tenants of another weight than 1, or of a group.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub tenants: BTreeMap<String, TenantShare>,
    /// Groups of tenants, or of groups: a band is shared among groups first, then inside each.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub groups: BTreeMap<String, TenantShare>,
    /// Tokens that a tenant of weight 1 may send per round; 4,096. Smaller is fairer at short times, larger gives
    /// deadlines more freedom across tenants.
    pub quantum_tokens: u64,
    /// A tenant may hold this multiple of the room that is free, or that its band could push others out of (A.
    /// Choudhury, E. Hahne, "Dynamic queue length thresholds for shared-memory packet switches", IEEE/ACM ToN 6(2),
    /// 1998): one greedy tenant fills `a / (1 + a)` of the queue, and always leaves room for others. `null`: no bound;
    /// 4. Only in bands that are fair.
    pub tenant_threshold: Option<f64>,
    /// Tenants that are told apart from the start of the gateway, some 110 bytes each, at most 2²⁰; those that come when so
    /// many are known are one tenant. A gateway tells apart no fewer than 10,000 for metrics. 10,000.
    pub max_tenants: u32,
    /// Whether what will probably not start in time is refused at once, instead of waiting in vain; yes.
    pub refuse_hopeless: bool,
    /// Tokens per second that the backends can do, believed until it was measured; none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected_tokens_per_second: Option<f64>,
    /// Over which time the rate of service is measured; 10 s.
    #[serde(rename = "rate_memory_ms", with = "millis")]
    #[cfg_attr(feature = "schema", schemars(with = "f64"))]
    pub rate_memory: Duration,
}

/// One band of a queue.
///
/// A request goes into the band that its route names; else into the first that lists its user's tier or its kind; else
/// into the first that lists neither; else into the last.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct BandPlan {
    /// Unique among the bands; for routes and metrics.
    pub name: String,
    /// Tiers of users whose requests belong here; one or a list.
    #[serde(deserialize_with = "one_or_many", skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "schema", schemars(with = "super::form::OneOrManySchema<String>"))]
    pub user_tier: Vec<String>,
    /// Kinds of requests that belong here (interactive, batch, embedding, ...); one or a list.
    #[serde(deserialize_with = "one_or_many", skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "schema", schemars(with = "super::form::OneOrManySchema<String>"))]
    pub kind: Vec<String>,
    /// The fraction of the tokens that this band gets whenever it waits, whatever better bands want; also the fraction
    /// of the room that better bands leave to it; 0.
    pub min_share: f64,
    /// Who is next, inside a tenant; and across tenants inside a round where the order has a key; earliest deadline.
    pub order: Order,
    /// Whether tenants share the band by deficit round robin; yes. If not, `order` holds across all tenants.
    pub fair: bool,
    /// The longest wait, at most a day; 30 s.
    #[serde(rename = "max_wait_ms", with = "millis")]
    #[cfg_attr(feature = "schema", schemars(with = "f64"))]
    pub max_wait: Duration,
    /// Time from arrival after which an answer is of no more use, for requests that say nothing of it; none.
    #[serde(rename = "deadline_ms", with = "millis::option", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<f64>"))]
    pub deadline: Option<Duration>,
    /// The band is *standing* when it has not been empty for this long; 5 s.
    #[serde(rename = "standing_after_ms", with = "millis")]
    #[cfg_attr(feature = "schema", schemars(with = "f64"))]
    pub standing_after: Duration,
    /// What joins a standing band waits at most this long: the controlled delay of request queues (K. Nichols,
    /// V. Jacobson, "Controlling queue delay", ACM Queue 10(5), 2012; for requests B. Maurer, "Fail at scale", ACM Queue
    /// 13(8), 2015). Without it `max_wait_ms` holds always; none.
    #[serde(rename = "shed_target_ms", with = "millis::option", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<f64>"))]
    pub shed_target: Option<Duration>,
    /// How far value goes before age, for the order `value_density`.
    pub value: ValueOrder,
}

/// Who is next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct ValueOrder {
    /// What one unit of value per 1000 tokens is worth in waiting time; 1 s.
    #[serde(rename = "head_start_ms", with = "millis")]
    #[cfg_attr(feature = "schema", schemars(with = "f64"))]
    pub head_start: Duration,
    /// The most that any value is worth; 30 s.
    #[serde(rename = "max_head_start_ms", with = "millis")]
    #[cfg_attr(feature = "schema", schemars(with = "f64"))]
    pub max_head_start: Duration,
}

/// What a tenant or a group gets of a band, against the others of the same group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct TenantShare {
    /// Its weight, 1 to 2²⁰; 1.
    pub weight: u32,
    /// The group that it belongs to; none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
}

impl Default for TenantShare {
    fn default() -> Self {
        Self { weight: 1, group: None }
    }
}

impl Default for QueuePlan {
    fn default() -> Self {
        let band = |name: &str, min_share, max_wait| BandPlan {
            name: name.into(),
            min_share,
            max_wait: Duration::from_secs(max_wait),
            ..BandPlan::default()
        };
        Self {
            max_waiting: 10_000,
            max_bytes: 1 << 30,
            max_tokens: 1 << 30,
            bands: vec![
                BandPlan {
                    kind: vec!["interactive".into()],
                    shed_target: Some(Duration::from_secs(1)),
                    ..band("interactive", 0.5, 30)
                },
                band("standard", 0.2, 60),
                BandPlan { kind: vec!["batch".into()], ..band("batch", 0.05, 600) },
            ],
            deadline_header: None,
            tenants: BTreeMap::new(),
            groups: BTreeMap::new(),
            quantum_tokens: 4096,
            tenant_threshold: Some(4.0),
            max_tenants: 10_000,
            refuse_hopeless: true,
            expected_tokens_per_second: None,
            rate_memory: Duration::from_secs(10),
        }
    }
}

impl Default for BandPlan {
    fn default() -> Self {
        Self {
            name: "default".into(),
            user_tier: Vec::new(),
            kind: Vec::new(),
            min_share: 0.0,
            order: Order::default(),
            fair: true,
            max_wait: Duration::from_secs(30),
            deadline: None,
            standing_after: Duration::from_secs(5),
            shed_target: None,
            value: ValueOrder::default(),
        }
    }
}

impl Default for ValueOrder {
    fn default() -> Self {
        Self { head_start: Duration::from_secs(1), max_head_start: Duration::from_secs(30) }
    }
}

/// Levels of groups and tenants at most.
const LEVELS: usize = 8;

impl QueuePlan {
    /// Nobody waits: what finds no room is refused at once.
    #[must_use]
    pub fn none() -> Self {
        Self { max_waiting: 0, ..Self::default() }
    }

    /// One band without minimum share, fairness or deadlines: first come, first served.
    #[must_use]
    pub fn first_come_first_served() -> Self {
        Self {
            bands: vec![BandPlan { order: Order::Fcfs, fair: false, ..BandPlan::default() }],
            ..Self::default()
        }
    }

    /// The band of a request whose route names none.
    #[must_use]
    pub fn band_of(&self, user_tier: &str, kind: &str) -> u8 {
        let lists = |list: &[String], text: &str| list.iter().any(|one| one == text);
        let listed = |band: &BandPlan| lists(&band.user_tier, user_tier) || lists(&band.kind, kind);
        let open = |band: &BandPlan| band.user_tier.is_empty() && band.kind.is_empty();
        let found = self.bands.iter().position(listed).or_else(|| self.bands.iter().position(open));
        found.unwrap_or(self.bands.len().saturating_sub(1)) as u8
    }

    /// The band of a name.
    #[must_use]
    pub fn band_named(&self, name: &str) -> Option<u8> {
        self.bands.iter().position(|band| band.name == name).map(|band| band as u8)
    }

    /// Checks what the types cannot say.
    ///
    /// # Errors
    /// [`PlanError::Key`] with the first key that is out of range.
    pub fn validate(&self) -> Result<(), PlanError> {
        check(self.max_waiting < 1 << 22, "max_waiting", self.max_waiting, "0 to 4194303")?;
        check(self.max_bytes < 1 << 63, "max_bytes", self.max_bytes, "less than 2^63")?;
        check((1..=1 << 40).contains(&self.max_tokens), "max_tokens", self.max_tokens, "1 to 2^40")?;
        let quantum = self.quantum_tokens;
        check((1..=1 << 40).contains(&quantum), "quantum_tokens", quantum, "1 to 2^40")?;
        check((1..=1 << 20).contains(&self.max_tenants), "max_tenants", self.max_tenants, "1 to 2^20")?;
        if let Some(a) = self.tenant_threshold {
            // The upper bound keeps products with 2⁴⁰ tokens inside 64 bits.
            check((1.0 / 256.0..=4_096.0).contains(&a), "tenant_threshold", a, "1/256 to 4096")?;
        }
        if let Some(rate) = self.expected_tokens_per_second {
            check(rate.is_finite() && rate > 0.0, "expected_tokens_per_second", rate, "more than 0")?;
        }
        check_positive("rate_memory_ms", self.rate_memory)?;
        if let Some(header) = &self.deadline_header {
            check(!header.is_empty(), "deadline_header", "``", "the name of a header")?;
        }
        let count = self.bands.len();
        check((1..=16).contains(&count), "bands", format_args!("{count} bands"), "1 to 16")?;
        for (ix, band) in self.bands.iter().enumerate() {
            let twin = self.bands[..ix].iter().any(|other| other.name == band.name);
            let holds = !twin && !band.name.is_empty();
            check(holds, &format!("bands[{ix}].name"), format_args!("`{}`", band.name), "a name of its own")?;
            band.validate().map_err(|error| error.under(&format!("bands[{ix}]")))?;
        }
        let sum: f64 = self.bands.iter().map(|band| band.min_share).sum();
        // 1e-9: ten bands of 0.1 do not sum to exactly 1 in binary.
        check(sum <= 1.0 + 1e-9, "bands", format_args!("min_share sums to {sum}"), "at most 1")?;
        self.validate_tenants()
    }

    fn validate_tenants(&self) -> Result<(), PlanError> {
        let of = |kind: &'static str, shares| std::iter::repeat(kind).zip(shares);
        for (kind, (name, share)) in
            of("groups", self.groups.iter()).chain(of("tenants", self.tenants.iter()))
        {
            let share: &TenantShare = share;
            let key = |key: &str| format!("{kind}.{name}.{key}");
            check((1..=1 << 20).contains(&share.weight), &key("weight"), share.weight, "1 to 2^20")?;
            let (mut above, mut levels) = (share.group.as_ref(), 1);
            while let Some(group) = above {
                levels += 1;
                check(
                    levels <= LEVELS,
                    &key("group"),
                    format_args!("`{group}`"),
                    "at most 8 levels without circles",
                )?;
                let Some(next) = self.groups.get(group) else {
                    return check(false, &key("group"), format_args!("`{group}`"), "the name of a group");
                };
                above = next.group.as_ref();
            }
        }
        Ok(())
    }
}

impl BandPlan {
    fn validate(&self) -> Result<(), PlanError> {
        const DAY: Duration = Duration::from_secs(86_400);
        check((0.0..=1.0).contains(&self.min_share), "min_share", self.min_share, "0 to 1")?;
        let wait = in_millis(self.max_wait);
        let fits = !self.max_wait.is_zero() && self.max_wait <= DAY;
        check(fits, "max_wait_ms", wait, "more than 0, at most a day")?;
        if let Some(target) = self.shed_target {
            let fits = !target.is_zero() && target <= self.max_wait;
            let most = format_args!("more than 0, at most max_wait_ms ({wait})");
            check(fits, "shed_target_ms", in_millis(target), most)?;
        }
        if let Some(deadline) = self.deadline {
            check_positive("deadline_ms", deadline)?;
        }
        let most = self.value.max_head_start;
        check(most <= DAY, "value.max_head_start_ms", in_millis(most), "at most a day")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid_and_survive_a_round_trip() {
        for plan in [QueuePlan::default(), QueuePlan::none(), QueuePlan::first_come_first_served()] {
            assert_eq!(plan.validate(), Ok(()));
            let text = serde_json::to_string(&plan).unwrap_or_default();
            assert_eq!(serde_json::from_str::<QueuePlan>(&text).ok(), Some(plan));
        }
        assert_eq!(serde_json::from_str::<QueuePlan>("{}").ok(), Some(QueuePlan::default()));
        assert!(serde_json::from_str::<QueuePlan>(r#"{"quantum": 3}"#).is_err());
    }

    #[test]
    fn what_is_out_of_range_is_named_with_its_value() {
        let refused = |change: fn(&mut QueuePlan)| {
            let mut plan = QueuePlan::default();
            change(&mut plan);
            plan.validate().err().map(|error| error.to_string()).unwrap_or_default()
        };
        assert_eq!(
            refused(|p| p.bands[1].min_share = 1.0),
            "bands: min_share sums to 1.55, expected at most 1"
        );
        assert!(refused(|p| p.bands[1].min_share = f64::NAN).contains("NaN"));
        assert_eq!(refused(|p| p.bands.clear()), "bands: 0 bands, expected 1 to 16");
        assert!(refused(|p| p.max_waiting = 1 << 22).starts_with("max_waiting: 4194304"));
        assert!(refused(|p| p.bands[2].max_wait = Duration::ZERO).starts_with("bands[2].max_wait_ms: 0"));
        assert!(refused(|p| p.bands[1].name = "batch".into()).starts_with("bands[2].name: `batch`"));
        let share = |group: &str| TenantShare { group: Some(group.into()), ..TenantShare::default() };
        let mut plan = QueuePlan::default();
        plan.tenants.insert("acme".into(), share("east"));
        let problem =
            |plan: &QueuePlan| plan.validate().err().map(|error| error.to_string()).unwrap_or_default();
        assert_eq!(problem(&plan), "tenants.acme.group: `east`, expected the name of a group");
        plan.groups.insert("east".into(), share("east"));
        assert_eq!(problem(&plan), "groups.east.group: `east`, expected at most 8 levels without circles");
        plan.groups.insert("east".into(), TenantShare::default());
        assert_eq!(plan.validate(), Ok(()));
    }

    #[test]
    fn tier_and_kind_choose_the_band() {
        let mut plan = QueuePlan::default();
        plan.bands[0].user_tier = vec!["gold".into()];
        assert_eq!(plan.band_of("gold", "batch"), 0);
        assert_eq!(plan.band_of("free", "interactive"), 0);
        assert_eq!(plan.band_of("free", "chat"), 1);
        assert_eq!(plan.band_of("free", "batch"), 2);
        plan.bands[1].kind = vec!["embedding".into()];
        assert_eq!(plan.band_of("free", "chat"), 2, "the last takes what none lists");
        assert_eq!(plan.band_named("batch"), Some(2));
    }
}
