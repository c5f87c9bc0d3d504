//! What do response headers say, whatever they say?

use std::time::Duration;

use traflux_core::Timestamp;
use traflux_gateway::congestion::date::{http_date, rfc3339};
use traflux_gateway::congestion::duration_text::{duration_with_units, milliseconds, seconds};
use traflux_gateway::congestion::feedback::{MAX_QUOTAS, retry_delay_in_body};
use traflux_gateway::congestion::{ClientHint, CoolDown, CoolDownPlan, HeaderStyle, Level};
use traflux_gateway::{Feedback, FeedbackPlan};

/// Eight bytes of clock, then headers, one per line, as `name: value`.
pub fn check(data: &[u8]) {
    let Some((clock, text)) = data.split_first_chunk::<8>() else { return };
    let now = Duration::from_secs(u64::from_le_bytes(*clock));
    let settings = FeedbackPlan::default();
    let headers: Vec<(&[u8], &[u8])> = text
        .split(|b| *b == b'\n')
        .map(|line| {
            let colon = line.iter().position(|b| *b == b':').unwrap_or(line.len());
            (&line[..colon], line.get(colon + 1..).unwrap_or_default())
        })
        .collect();
    let feedback = Feedback::read(headers.iter().copied(), now, &settings);
    assert!(feedback.quotas().len() <= MAX_QUOTAS);
    for quota in feedback.quotas() {
        assert!(quota.reset.is_none_or(|reset| reset <= settings.max_reset));
        assert!(quota.limit.is_some() || quota.remaining.is_some());
        assert!(quota.share_left().is_none_or(|share| (0.0..=1.0).contains(&share)));
    }
    let waits = [feedback.retry_after, feedback.wait(&settings), retry_delay_in_body(text, &settings)];
    for wait in waits.into_iter().flatten() {
        assert!(wait.wait <= settings.max_wait && wait.wait <= wait.stated);
        let cool_down = CoolDown::new(&CoolDownPlan::default());
        let until = cool_down.refused(Timestamp::new(now), Some(wait), 7);
        assert!(until.since_epoch() >= now.min(until.since_epoch()));
        assert!((0.0..=1.0).contains(&cool_down.share(Timestamp::new(now))));
        let _ = cool_down.left(Timestamp::new(now));
    }
    for (_, value) in &headers {
        let _ = (
            http_date(value),
            rfc3339(value),
            duration_with_units(value),
            seconds(value),
            milliseconds(value),
        );
    }
    tell(&feedback);
}

/// What a provider says is told to the client in three dialects, each a header that HTTP allows, and the words
/// read back as they were.
fn tell(feedback: &Feedback) {
    let levels: Vec<Level<'_>> = feedback
        .quotas()
        .iter()
        .map(|quota| Level {
            name: "a \"limit\"\n",
            resource: quota.resource,
            limit: quota.limit.unwrap_or(u64::MAX),
            remaining: quota.remaining.unwrap_or(0),
            reset: quota.reset.unwrap_or_default(),
            window: quota.window.unwrap_or_default(),
        })
        .collect();
    let hint = ClientHint { retry_after: feedback.retry_after.map(|wait| wait.wait), levels: &levels };
    for style in [HeaderStyle::Words, HeaderStyle::Legacy, HeaderStyle::Draft, HeaderStyle::Off] {
        let mut said = Vec::new();
        hint.write(style, &mut String::new(), |name, value| said.push((name.to_owned(), value.to_owned())));
        for (name, value) in &said {
            assert!(
                name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'),
                "{name}"
            );
            assert!(value.bytes().all(|b| (b' '..=b'~').contains(&b)), "{value:?}");
        }
        let pairs = said.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()));
        let again = Feedback::read(pairs, Duration::ZERO, &FeedbackPlan::default());
        let waits = (again.retry_after, hint.retry_after);
        match waits {
            (Some(again), Some(told)) => {
                assert!(again.stated >= told && again.stated <= told + Duration::from_secs(1), "{waits:?}");
            }
            (again, told) => assert!(again.is_none() && told.is_none(), "{waits:?}"),
        }
        if style == HeaderStyle::Words {
            for quota in again.quotas() {
                let meant = levels.iter().any(|level| {
                    level.resource == quota.resource
                        && quota.limit == Some(level.limit)
                        && quota.remaining == Some(level.remaining)
                });
                assert!(meant, "{quota:?} of {levels:?}");
            }
        }
    }
}
