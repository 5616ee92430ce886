//! The settings of the pure crates, made from a snapshot.

use std::sync::Arc;

use ringpost_delivery::dns::DnsConfig;
use ringpost_delivery::{
    AddressFamily as DeliveryFamily, AddressPolicy, DeliveryConfig, RetryDelays, RetrySchedule,
    Route, RoutePattern, Smarthost,
};
use ringpost_protocol::extension::{Extension, ExtensionSet};
use ringpost_protocol::limits::DSN_PARAMETERS_SIZE_MAX;
use ringpost_protocol::sasl::Mechanism;
use ringpost_queue::QueueConfig;
use ringpost_session::client::{ClientConfig, ClientProtocol, ClientTimeouts, Dialect};
use ringpost_session::server::{AuthPolicy, ServerConfig};

use super::header::field_name;
use super::retry::{Exponential, Retry};
use super::schema::{AddressFamily, ListenerSection, RouteDomain, RouteProtocol, RouteSection};
use super::snapshot::ConfigSnapshot;
use crate::control::Thresholds;

impl ConfigSnapshot {
    /// What the sessions of a listener have in common.
    pub fn server_config(&self, listener: &ListenerSection) -> ServerConfig {
        ServerConfig {
            hostname: self.hostname().into(),
            extensions: listener
                .extensions_off
                .iter()
                .fold(ExtensionSet::ALL, |offered, off| offered.without(*off)),
            size_max: listener.message_size_max,
            recipients_max: listener.recipients_max,
            errors_max: listener.errors_max,
            junk_commands_max: listener.junk_commands_max,
            transactions_max: listener.transactions_max,
            tls: listener.tls_policy(),
            tls_handshake_timeout: listener.tls_handshake_timeout,
            auth: self.auth_policy(listener),
            command_timeout: listener.command_timeout,
            data_block_timeout: listener.data_block_timeout,
            data_rate_min: listener.data_rate_min,
            data_rate_grace: listener.data_rate_grace,
            output_timeout: listener.output_timeout,
            received_fields_max: listener.received_fields_max,
            header_size_max: usize::try_from(listener.header_size_max).unwrap_or(usize::MAX),
            header_fields_max: listener.header_fields_max,
            session_time_max: listener.session_time_max,
            future_release_max: listener.future_release_max,
            not_before_header: field_name(&listener.not_before_header),
            tenant_header: field_name(&listener.header.tenant),
            campaign_header: field_name(&listener.header.campaign),
            tls_required_field: listener.header.tls_required,
            add_missing_fields: listener.adds_missing_fields(),
            priority_max: listener.mt_priority.then_some(listener.mt_priority_max),
            deliver_by_min: listener
                .deliver_by
                .then(|| u32::try_from(listener.deliver_by_min.as_secs()).unwrap_or(u32::MAX)),
            dsn_parameters_size_max: self.dsn_parameters_size_max(),
            binary_mime: listener.binary_mime,
            aliases: Arc::clone(self.aliases()),
            vrfy: listener.vrfy,
            expn: listener.expn,
            address_literals: listener.address_literals,
            stress: self.config().stress.limits(),
            lenient: listener.lenient,
        }
    }

    /// What the sessions of a listener make of AUTH. A client takes the best mechanism that is offered and
    /// looks no further: what some users cannot use is not offered, unless the file says so.
    fn auth_policy(&self, listener: &ListenerSection) -> AuthPolicy {
        let mut policy = self.config().auth_policy(listener);
        let have_scram = self.users().is_some_and(|users| users.have_scram());
        if listener.auth.mechanisms.is_none() && !have_scram {
            for mechanism in [Mechanism::ScramSha256, Mechanism::ScramSha256Plus] {
                policy.mechanisms = policy.mechanisms.without(mechanism);
            }
        }
        policy
    }

    /// Octets of DSN parameters that fit a record beside the envelope and the content, which have half
    /// and a quarter of it.
    fn dsn_parameters_size_max(&self) -> usize {
        let room = self.queue_config().group_size_max() / 8;
        room.min(DSN_PARAMETERS_SIZE_MAX)
    }

    /// Octets of a message that a report returns as a whole. Report and outcome are one group of records.
    pub fn return_size_max(&self) -> u64 {
        let queue = &self.config().queue;
        queue.return_size_max.min(queue.segment_size / 8)
    }

    /// What outbound sessions have in common.
    pub fn client_config(&self) -> ClientConfig {
        let delivery = &self.config().delivery;
        ClientConfig {
            helo_name: self.helo_name().into(),
            timeouts: ClientTimeouts {
                greeting: delivery.greeting_timeout,
                ehlo: delivery.ehlo_timeout,
                starttls: delivery.ehlo_timeout,
                auth: delivery.ehlo_timeout,
                tls_handshake: delivery.tls_handshake_timeout,
                mail: delivery.mail_timeout,
                rcpt: delivery.rcpt_timeout,
                data: delivery.data_timeout,
                content_block: delivery.data_block_timeout,
                final_reply: delivery.final_reply_timeout,
                ..ClientTimeouts::default()
            },
        }
    }

    /// The limits of each shard's log. With small segments the batches and chunks are small too.
    pub fn queue_config(&self) -> QueueConfig {
        let queue = &self.config().queue;
        let defaults = QueueConfig::default();
        let limits = QueueConfig {
            segment_size: queue.segment_size,
            disk_size_max: queue.size_max,
            checkpoint_interval: queue.checkpoint_interval,
            event_segments_max: self.config().events.held_segments_max,
            ..defaults
        };
        let group_size_max = limits.group_size_max();
        QueueConfig {
            batch_size_max: limits.batch_size_max.min(group_size_max),
            // Half of the group is for the envelope, which the checks know.
            chunk_size: limits.chunk_size.min(group_size_max / 4),
            ..limits
        }
    }

    /// Where intake is slowed down and stopped, by what the process shares with others.
    pub fn thresholds(&self) -> Thresholds {
        let queue = &self.config().queue;
        Thresholds {
            free_space_min_percent: queue.free_space_min_percent,
            free_space_slow_percent: queue.free_space_slow_percent,
            free_inodes_min: queue.free_inodes_min,
            segment_size: queue.segment_size,
            memory_max: self.memory_max(),
        }
    }

    /// What the delivery engine is to do.
    pub fn delivery_config(&self) -> DeliveryConfig {
        let delivery = &self.config().delivery;
        DeliveryConfig {
            hostname: self.hostname().into(),
            routes: self.config().route.iter().map(|section| self.route(section)).collect(),
            port: delivery.port,
            connections_per_site_max: delivery.connections_per_site_max,
            transactions_per_connection_max: delivery.transactions_per_connection_max,
            recipients_per_transaction_max: delivery.recipients_per_transaction_max,
            idle_timeout: delivery.idle_timeout,
            connect_timeout: delivery.connect_timeout,
            retry: self.schedule(&delivery.retry),
            delay_warning: self.config().queue.delay_warning,
            tls: self.tls_policy(None),
            rules: Arc::clone(self.reply_rules()),
            dialect: dialect(RouteProtocol::Smtp, &delivery.extensions_off),
            tls_broken_time: delivery.tls_broken_time,
            tls_broken_max: delivery.tls_broken_per_core_max,
            address_policy: AddressPolicy {
                allow_loopback: delivery.allow_loopback,
                allow_private: delivery.allow_private,
            },
            address_family: match delivery.address_family {
                AddressFamily::Any => DeliveryFamily::Any,
                AddressFamily::Ipv4 => DeliveryFamily::V4,
                AddressFamily::Ipv6 => DeliveryFamily::V6,
            },
            dns: DnsConfig {
                servers: self.name_servers().to_vec(),
                timeout: self.config().dns.timeout,
                attempts: self.config().dns.attempts,
                ..DnsConfig::default()
            },
            ..DeliveryConfig::default()
        }
    }

    fn schedule(&self, retry: &Retry) -> RetrySchedule {
        RetrySchedule {
            delays: match retry {
                Retry::List(delays) => RetryDelays::List(delays.clone()),
                Retry::Exponential(Exponential { first, factor, max }) => {
                    RetryDelays::Exponential { first: *first, factor: *factor, max: *max }
                }
            },
            jitter_percent: self.config().delivery.retry_jitter_percent,
        }
    }

    fn route(&self, section: &RouteSection) -> Route {
        let smarthost = section.smarthost.as_ref();
        Route {
            pattern: match &section.domain {
                RouteDomain::Any => RoutePattern::Any,
                RouteDomain::Exact(host) => RoutePattern::Exact(host.to_string().into()),
            },
            smarthost: smarthost.map(|to| Smarthost { host: to.host.clone(), port: to.port }),
            retry: section.retry.as_ref().map(|retry| self.schedule(retry)),
            lifetime: section.lifetime,
            delay_warning: section.delay_warning,
            tls: section.has_tls().then(|| self.tls_policy(Some(section))),
            login: self.login_profile(section),
            dialect: section.has_dialect().then(|| {
                let general = &self.config().delivery.extensions_off;
                dialect(section.protocol, section.extensions_off.as_ref().unwrap_or(general))
            }),
        }
    }
}

fn dialect(protocol: RouteProtocol, extensions_off: &[Extension]) -> Dialect {
    Dialect {
        protocol: match protocol {
            RouteProtocol::Smtp => ClientProtocol::Smtp,
            RouteProtocol::Lmtp => ClientProtocol::Lmtp,
        },
        extensions: extensions_off.iter().fold(ExtensionSet::ALL, |used, off| used.without(*off)),
    }
}
