//! Credentials at smarthosts: with the passwords read, by route.

use std::collections::HashMap;
use std::sync::Arc;

use ringpost_delivery::LoginProfile;

use super::check::Contradiction;
use super::schema::{Config, RouteAuth, RouteSection};
use crate::auth::Credentials;

/// What we log in with.
#[derive(Debug, Clone, Default)]
pub(super) struct Logins {
    credentials: HashMap<LoginProfile, Arc<Credentials>>,
    /// The profile of each setting that was read.
    profiles: Vec<(RouteAuth, LoginProfile)>,
}

/// Equal with the same passwords.
impl PartialEq for Logins {
    fn eq(&self, other: &Self) -> bool {
        self.profiles == other.profiles
    }
}

impl Logins {
    /// Reads the passwords of all routes.
    pub(super) fn load(config: &Config) -> Result<Self, Vec<Contradiction>> {
        let mut loaded = Self::default();
        let mut found = Vec::new();
        for (index, route) in config.route.iter().enumerate() {
            let Some(auth) = &route.auth else { continue };
            if loaded.profiles.iter().any(|(read, _)| read == auth) {
                continue;
            }
            match Credentials::read_password(&auth.password_file) {
                Ok(password) => {
                    let mechanisms = auth.mechanisms();
                    let credentials =
                        Credentials::new(&auth.user, password, mechanisms, &auth.without_tls_to);
                    let profile = credentials.profile();
                    loaded.credentials.entry(profile).or_insert_with(|| Arc::new(credentials));
                    loaded.profiles.push((auth.clone(), profile));
                }
                Err(error) => {
                    let place = ["route", &index.to_string(), "auth", "password_file"];
                    found.push(Contradiction {
                        place: place.map(str::to_owned).into(),
                        reason: format!("{}: {error}", auth.password_file.display()),
                    });
                }
            }
        }
        if found.is_empty() { Ok(loaded) } else { Err(found) }
    }

    /// The profile of a route; of one whose password was not read a number that stands for nothing.
    pub(super) fn profile(&self, route: &RouteSection) -> Option<LoginProfile> {
        let auth = route.auth.as_ref()?;
        let read = self.profiles.iter().find(|(read, _)| read == auth);
        Some(read.map_or(LoginProfile(0), |(_, profile)| *profile))
    }

    /// The credentials of a profile.
    pub(super) fn get(&self, profile: LoginProfile) -> Option<&Arc<Credentials>> {
        self.credentials.get(&profile)
    }

    /// Goes on with what is known of credentials that have not changed.
    pub(super) fn adopt(&mut self, old: &Self) {
        for (profile, credentials) in &mut self.credentials {
            if let Some(known) = old.credentials.get(profile) {
                *credentials = Arc::clone(known);
            }
        }
    }
}
