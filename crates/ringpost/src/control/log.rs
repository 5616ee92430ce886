//! What the process says about itself, on standard error.

use std::fmt;
use std::io::{self, IsTerminal};

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::registry::LookupSpan;

use crate::config::schema::{LogFormat, LogSection};

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// The level is not one.
    #[error("log.level is not valid")]
    Level(#[from] tracing_subscriber::filter::ParseError),
    /// The process logs already.
    #[error("logging is set up already")]
    AlreadySet,
}

/// Sends the log of the whole process to standard error. To be called once, before threads start.
///
/// # Errors
///
/// [`LogError`]; a checked configuration has a valid level.
pub fn init(section: &LogSection) -> Result<(), LogError> {
    let subscriber = subscriber(section, io::stderr().is_terminal(), io::stderr)?;
    tracing::subscriber::set_global_default(subscriber).map_err(|_| LogError::AlreadySet)
}

fn subscriber<W>(
    section: &LogSection,
    colours: bool,
    writer: W,
) -> Result<Box<dyn Subscriber + Send + Sync>, LogError>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let filter = EnvFilter::try_new(&section.level)?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    Ok(match section.format {
        LogFormat::Text => Box::new(builder.with_ansi(colours).finish()),
        LogFormat::Journal => {
            Box::new(builder.with_ansi(false).event_format(JournalFormat).finish())
        }
    })
}

/// Lines for the systemd journal: a priority in angle brackets (sd-daemon(3)), no time.
struct JournalFormat;

impl<S, N> FormatEvent<S, N> for JournalFormat
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let priority = match *event.metadata().level() {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            _ => 7,
        };
        write!(writer, "<{priority}>{}: ", event.metadata().target())?;
        context.format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(level: &str, format: LogFormat) -> String {
        let buffer = Buffer::default();
        let section = LogSection { level: String::from(level), format };
        let writer = buffer.clone();
        let subscriber = subscriber(&section, false, move || writer.clone()).unwrap();
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(target: "ringpost::a", count = 3, "hello");
            tracing::debug!(target: "ringpost::b", "details");
        });
        String::from_utf8(buffer.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn journal_lines_have_a_priority_and_no_time() {
        assert_eq!(logged("info", LogFormat::Journal), "<6>ringpost::a: hello count=3\n");
    }

    #[test]
    fn text_lines_have_a_time() {
        let text = logged("info", LogFormat::Text);
        assert!(text.ends_with("Z  INFO ringpost::a: hello count=3\n"), "{text:?}");
        assert!(text.starts_with("20"), "{text:?}");
    }

    #[test]
    fn levels_are_by_module() {
        let text = logged("warn,ringpost::b=debug", LogFormat::Journal);
        assert_eq!(text, "<7>ringpost::b: details\n");
    }
}
