//! The settings of all breakers.

use resilience::{CircuitBreakerConfig, Mode, OpenWait, Window};
use service_kit::config::Problems;

use crate::config::BreakerConfig;

/// Checks the section. `None` when there are problems.
pub(super) fn of(section: &BreakerConfig, problems: &mut Problems) -> Option<CircuitBreakerConfig> {
    let key = |field: &str| format!("circuit_breaker.{field}");
    let call_timeout = section.call_timeout;
    problems.require(!call_timeout.0.is_zero(), &key("call_timeout"), call_timeout, "must be longer than 0");
    let rate = section.failure_rate_percent;
    // Written so that NaN fails it.
    let is_rate = (0.0..=100.0).contains(&rate);
    problems.require(is_rate, &key("failure_rate_percent"), rate, "must be from 0 to 100");
    let window = window(section, problems)?;
    let open_wait = OpenWait::fixed(section.recovery_timeout.0).with_jitter(section.recovery_jitter);
    let mut builder = CircuitBreakerConfig::tier()
        .mode(if section.enabled { Mode::Normal } else { Mode::Disabled })
        .consecutive_failures(section.failure_threshold)
        .open_wait(open_wait)
        .half_open_calls(section.half_open_calls)
        .window(window)
        .minimum_calls(section.minimum_calls)
        .slow_call_rate_percent(section.slow_call_rate_percent);
    if is_rate && rate > 0.0 {
        builder = builder.failure_rate_percent(rate);
    }
    if let Some(slow) = section.slow_call {
        builder = builder.slow_call(slow.0);
    }
    if !section.ramp_percent.is_empty() {
        builder = builder.half_open_ramp(&section.ramp_percent, section.ramp_time.0);
    }
    let invalid = match builder.build() {
        Ok(built) => return is_rate.then_some(built),
        Err(invalid) => invalid,
    };
    let (field, value) = match invalid.field {
        "consecutive_failures" => ("failure_threshold", section.failure_threshold.to_string()),
        "open_wait" => ("recovery_timeout", section.recovery_timeout.to_string()),
        "open_wait.jitter" => ("recovery_jitter", section.recovery_jitter.to_string()),
        "window" => ("window_calls", section.window_calls.to_string()),
        "minimum_calls" => ("minimum_calls", section.minimum_calls.to_string()),
        "slow_call" => ("slow_call", section.slow_call.map(|slow| slow.to_string()).unwrap_or_default()),
        "slow_call_rate_percent" => ("slow_call_rate_percent", section.slow_call_rate_percent.to_string()),
        "half_open_ramp" => ("ramp_percent", format!("{:?}", section.ramp_percent)),
        _ => ("half_open_calls", section.half_open_calls.to_string()),
    };
    problems.add(key(field), value, format!("must be {}", invalid.rule));
    None
}

/// The window that rates are computed of.
fn window(section: &BreakerConfig, problems: &mut Problems) -> Option<Window> {
    let Some(time) = section.window_time else {
        return Some(Window::Count(section.window_calls));
    };
    let seconds = u32::try_from(time.0.as_secs()).ok().filter(|seconds| (1..=Window::MAX).contains(seconds));
    let whole = time.0.subsec_nanos() == 0;
    let Some(seconds) = seconds.filter(|_| whole) else {
        let rule = format!("must be from 1 to {} whole seconds", Window::MAX);
        problems.add("circuit_breaker.window_time", time.to_string(), rule);
        return None;
    };
    Some(Window::Time { seconds })
}
