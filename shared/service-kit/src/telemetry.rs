//! Logs on standard output, traces by OTLP.
//!
//! Every request has a W3C trace context, also when no collector is configured, so that a log line of one service can be
//! matched with those of another. Log lines leave by a bounded queue: when standard output is blocked they are dropped and counted,
//! and no request waits for them.

mod export;
mod format;
pub mod propagation;
mod trace_context;

use std::io::IsTerminal as _;
use std::time::{Duration, SystemTime};

use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::WithExportConfig as _;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use prometheus_client::metrics::counter::ConstCounter;
use serde::{Deserialize, Serialize};
use tracing::{Subscriber, warn};
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::{LevelFilter, ParseError, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer};

use crate::config::{Endpoint, EnvVar, Parse, Problems};
use crate::metrics::{Registry, ReloadMetrics};
use crate::serving::ServeError;
use export::{ExportMetrics, Reported};
use trace_context::NotExported;

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people on a terminal, JSON elsewhere.
    Auto,
    /// One JSON object a line.
    Json,
    /// For people.
    Human,
}

/// The `telemetry` section.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TelemetryConfig {
    /// What is logged: a level, or directives such as `info,agent_router=debug`.
    pub log_level: String,
    /// How log lines look.
    pub log_format: LogFormat,
    /// Where spans go, by OTLP over gRPC. Unset: nowhere.
    pub otlp_endpoint: Option<Endpoint>,
    /// Switches tracing off even with an endpoint.
    pub otel_disabled: bool,
    /// The `service.name` of spans. Unset: the binary's name.
    pub service_name: Option<String>,
}

impl Default for TelemetryConfig {
    fn default() -> Self {
        Self {
            log_level: "info".into(),
            log_format: LogFormat::Auto,
            otlp_endpoint: None,
            otel_disabled: false,
            service_name: None,
        }
    }
}

impl TelemetryConfig {
    /// The environment variables of this section. OpenTelemetry's other variables (sampler, batch sizes, resource
    /// attributes) are read by its SDK.
    pub const ENVIRONMENT: &'static [EnvVar] = &[
        EnvVar::new("OTEL_EXPORTER_OTLP_ENDPOINT", "telemetry.otlp_endpoint", Parse::Text),
        EnvVar::new("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "telemetry.otlp_endpoint", Parse::Text),
        EnvVar::new("OTEL_SDK_DISABLED", "telemetry.otel_disabled", Parse::Bool),
        EnvVar::new("OTEL_SERVICE_NAME", "telemetry.service_name", Parse::Text),
    ];

    /// Refuses directives that cannot be parsed.
    pub fn check(&self, problems: &mut Problems) {
        problems.require_plaintext("telemetry.otlp_endpoint", &self.otlp_endpoint);
        // A single word is a target to the filter, and a mistyped level would silence everything.
        let word = !self.log_level.contains(['=', ',', '[']);
        let level = self.log_level.parse::<LevelFilter>();
        let rule =
            "must be off, error, warn, info, debug, trace, or directives such as info,agent_router=debug";
        problems.require(!word || level.is_ok(), "telemetry.log_level", &self.log_level, rule);
        if let Err(error) = EnvFilter::try_new(&self.log_level) {
            problems.add(
                "telemetry.log_level",
                &self.log_level,
                format!("must be a level or directives such as info,agent_router=debug: {error}"),
            );
        }
    }
}

/// Telemetry that is switched on. Keep it to the end of the process and call [`Telemetry::shut_down`].
#[derive(Debug)]
pub struct Telemetry {
    /// Where spans are exported.
    provider: Option<SdkTracerProvider>,
    dropped_lines: ErrorCounter,
    log_writer: WorkerGuard,
    exports: ExportMetrics,
    reloads: ReloadMetrics,
}

impl Telemetry {
    /// Switches on logs and traces for this process. Call it inside the runtime: the exporter needs it.
    ///
    /// # Errors
    /// The exporter cannot be built, or telemetry was switched on before.
    pub fn init(config: &TelemetryConfig, service: &str) -> Result<Self, ServeError> {
        let (writer, log_writer) = NonBlockingBuilder::default().lossy(true).finish(std::io::stdout());
        let dropped_lines = writer.error_counter();
        let exports = ExportMetrics::default();
        let provider = provider(config, service, &exports)?;
        let filter = log_filter(&config.log_level).map_err(|error| ServeError::set_up("logging", error))?;
        tracing_subscriber::registry()
            .with(span_layer(provider.as_ref()))
            .with(log_layer(config.log_format, writer).with_filter(filter))
            .try_init()
            .map_err(|error| ServeError::set_up("logging", error))?;
        let reloads = ReloadMetrics::new(SystemTime::now());
        Ok(Self { provider, dropped_lines, log_writer, exports, reloads })
    }

    /// Registers what is counted for the process: log lines that were dropped, batches of spans, reloads of the
    /// configuration.
    pub fn register(&self, registry: &mut Registry) {
        registry.register_collector(Box::new(DroppedLines(self.dropped_lines.clone())));
        self.exports.register(registry);
        self.reloads.register(registry);
    }

    /// The count of reloads of the configuration.
    pub(crate) fn reloads(&self) -> &ReloadMetrics {
        &self.reloads
    }

    /// Sends what has been recorded and stops. Waits at most `timeout` for a collector.
    pub async fn shut_down(self, timeout: Duration) {
        if let Some(provider) = self.provider {
            // The exporter blocks its thread, so it must not have one of the runtime's.
            let flushed = tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(timeout)).await;
            if let Ok(Err(error)) = flushed {
                warn!(%error, "spans were lost at shutdown");
            }
        }
        drop(self.log_writer);
    }
}

/// The provider of spans that are exported. `None` where nobody collects them.
fn provider(
    config: &TelemetryConfig,
    service: &str,
    exports: &ExportMetrics,
) -> Result<Option<SdkTracerProvider>, ServeError> {
    let Some(endpoint) = config.otlp_endpoint.as_ref().filter(|_| !config.otel_disabled) else {
        return Ok(None);
    };
    let name = config.service_name.clone().unwrap_or_else(|| service.to_owned());
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint.to_string())
        .build()
        .map_err(|error| ServeError::set_up("the OTLP exporter", error))?;
    let provider = SdkTracerProvider::builder()
        .with_resource(Resource::builder().with_service_name(name).build())
        .with_batch_exporter(Reported::new(exporter, endpoint, exports.clone()));
    Ok(Some(provider.build()))
}

/// What is logged. Of h2 only errors, where the usual is logged of all: it warns of every connection that resets too many
/// streams, and so whoever opens them decides how much is written.
fn log_filter(directives: &str) -> Result<EnvFilter, ParseError> {
    let filter = EnvFilter::try_new(directives)?;
    let usual = |part: &str| matches!(part.trim().parse(), Ok(LevelFilter::INFO | LevelFilter::WARN));
    if directives.split(',').any(usual) && !directives.contains("h2") {
        return Ok(filter.add_directive("h2=error".parse()?));
    }
    Ok(filter)
}

/// The crates whose spans are ours. Those of h2 and hyper would drown them, and exporting would make more of them.
const TRACED: [&str; 4] = ["agent_router", "api_server", "gateway", "service_kit"];

/// What makes of our spans those that are exported, or keeps the trace contexts of those that are not.
fn span_layer<S>(provider: Option<&SdkTracerProvider>) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
{
    let ours = Targets::new().with_targets(TRACED.map(|target| (target, tracing::Level::INFO)));
    let Some(provider) = provider else {
        return NotExported.with_filter(ours).boxed();
    };
    tracing_opentelemetry::layer()
        .with_tracer(provider.tracer("ai-platform"))
        .with_location(false)
        .with_threads(false)
        .with_target(false)
        .with_tracked_inactivity(false)
        .with_filter(ours)
        .boxed()
}

fn log_layer<S>(format: LogFormat, writer: NonBlocking) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
{
    let terminal = std::io::stdout().is_terminal();
    let json = match format {
        LogFormat::Json => true,
        LogFormat::Human => false,
        LogFormat::Auto => !terminal,
    };
    let layer = tracing_subscriber::fmt::layer()
        // It would write to standard error, and panic where that is closed.
        .log_internal_errors(false)
        .fmt_fields(format::SpanFields)
        .with_writer(writer);
    if json { layer.event_format(format::Json).boxed() } else { layer.event_format(format::Human).boxed() }
}

#[derive(Debug)]
struct DroppedLines(ErrorCounter);

impl prometheus_client::collector::Collector for DroppedLines {
    fn encode(
        &self,
        mut encoder: prometheus_client::encoding::DescriptorEncoder<'_>,
    ) -> Result<(), std::fmt::Error> {
        let dropped = u64::try_from(self.0.dropped_lines()).unwrap_or(u64::MAX);
        let counter = ConstCounter::new(dropped);
        let metric = encoder.encode_descriptor(
            "aip_log_lines_dropped",
            "Log lines dropped because standard output was blocked",
            None,
            prometheus_client::metrics::MetricType::Counter,
        )?;
        prometheus_client::encoding::EncodeMetric::encode(&counter, metric)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h2_is_quiet_unless_it_is_asked() {
        for (directives, quiet) in [
            ("info", true),
            ("warn", true),
            ("info,agent_router=debug", true),
            ("off", false),
            ("debug", false),
            ("info,h2=debug", false),
        ] {
            let filter = log_filter(directives).unwrap().to_string();
            assert_eq!(filter.contains("h2=error"), quiet, "{directives}: {filter}");
        }
    }
}
