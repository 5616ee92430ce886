//! The text that `/metrics` answers with.

use std::sync::Arc;

use metrics_exporter_prometheus::PrometheusHandle;

use crate::catalog;
use crate::recorder::{Histograms, MetricsRecorder};

/// Installing the process-wide recorder failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InstallError {
    /// The process has a recorder already.
    #[error("a metrics recorder is installed already")]
    AlreadyInstalled,
}

/// Reads all metrics of one recorder. Cheap to clone; reading never stops a shard.
#[derive(Debug, Clone)]
pub struct Exposition {
    prometheus: PrometheusHandle,
    histograms: Arc<Histograms>,
}

impl Exposition {
    pub(crate) fn new(prometheus: PrometheusHandle, histograms: Arc<Histograms>) -> Self {
        Self { prometheus, histograms }
    }

    /// The Prometheus text format, version 0.0.4, of all registered metrics.
    pub fn render(&self) -> String {
        let mut page = self.prometheus.render();
        self.histograms.render(&mut page);
        page
    }
}

/// Installs the process-wide recorder and describes every metric to it.
///
/// To be called once, before the first handle is registered: handles registered earlier count nothing.
///
/// # Errors
///
/// [`InstallError::AlreadyInstalled`] at the second call.
pub fn install() -> Result<Exposition, InstallError> {
    let (recorder, exposition) = MetricsRecorder::new();
    metrics::set_global_recorder(recorder).map_err(|_| InstallError::AlreadyInstalled)?;
    catalog::describe_all();
    Ok(exposition)
}
