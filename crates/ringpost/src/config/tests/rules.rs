//! Files of rules: what is read, what is refused, and where.

use std::path::Path;
use std::time::Duration;

use ringpost_delivery::rules::{BackOff, RuleFate};

use super::{MINIMAL, facts};
use crate::config::rules::{load_rules, parse_rules};
use crate::config::{ConfigError, load_with_files};

#[test]
fn the_shipped_rules_are_good() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/rules.toml");
    let rules = load_rules(&path).unwrap();
    assert!(rules.rules.len() >= 5);
}

#[test]
fn all_keys_are_read() {
    let text = "[[rule]]\nname = 'a'\nstage = ['rcpt', 'mail']\ncode = '4xx'\nenhanced = '4.7.x'\n\
                text = 'slow'\nhost = '*.a.test'\ndomain = 'b.test'\naction = 'end_session'\n\
                retry_after = '15m'\nskip_host = '1h'\n\
                back_off = { connections_max = 2, time = '30m', deliveries = 5 }\n";
    let rules = parse_rules(text).unwrap().rules;
    let [rule] = rules.as_slice() else { panic!("{rules:?}") };
    assert_eq!((&*rule.name, rule.stages.len(), rule.codes.len()), ("a", 2, 1));
    assert_eq!((rule.enhanced.len(), rule.texts.len()), (1, 1));
    assert_eq!((rule.hosts.len(), rule.domains.len()), (1, 1));
    let minutes = Duration::from_mins;
    assert_eq!(rule.action.fate, Some(RuleFate::EndSession));
    assert_eq!(rule.action.retry_after, Some(minutes(15)));
    assert_eq!(rule.action.skip_host, Some(minutes(60)));
    let back_off = BackOff { connections_max: 2, time: minutes(30), deliveries: Some(5) };
    assert_eq!(rule.action.back_off, Some(back_off));
}

#[test]
fn wrong_rules_are_refused_with_line_and_reason() {
    let table = [
        ("[[rule]]\n", 1, "missing field `name`"),
        ("[[rule]]\nname = 'a'\ncolour = 1\n", 3, "unknown field `colour`"),
        ("[[rules]]\n", 1, "unknown field `rules`"),
        ("[[rule]]\nname = 'a'\ncode = 4\n", 3, "a text, or a list of texts"),
        ("[[rule]]\nname = 'a'\ncode = '2xx'\naction = 'defer'\n", 1, "code: \"2xx\" is not one"),
        ("[[rule]]\nname = 'a'\ncode = '4xx'\naction = 'drop'\n", 4, "unknown variant `drop`"),
        ("[[rule]]\nname = 'a'\nstage = 'helo'\naction = 'defer'\n", 1, "stage: \"helo\" is not"),
        ("[[rule]]\nname = 'a'\nenhanced = '4'\naction = 'defer'\n", 1, "enhanced: \"4\" is not"),
        ("[[rule]]\nname = 'a'\ntext = ''\naction = 'defer'\n", 1, "text: \"\" is not one"),
        ("[[rule]]\nname = 'a'\ncode = '4xx'\nhost = '*'\naction = 'defer'\n", 1, "host: \"*\""),
        ("[[rule]]\nname = 'a'\ncode = '4xx'\n", 1, "nothing follows from it"),
        ("[[rule]]\nname = 'a'\nhost = 'a'\naction = 'defer'\n", 1, "it is for everything"),
        ("[[rule]]\nname = 'a'\nstage = 'rcpt'\naction = 'bounce'\n", 1, "whatever is said"),
        (
            "[[rule]]\nname = 'a'\nstage = 'auth'\ncode = '535'\naction = 'bounce'\n",
            1,
            "nothing bounces for what happens at auth",
        ),
        (
            "[[rule]]\nname = 'a'\ncode = '450'\naction = 'bounce'\nretry_after = '1m'\n",
            1,
            "what bounces is not tried again",
        ),
        ("[[rule]]\nname = 'a'\ncode = '450'\nretry_after = '2d'\n", 1, "must be from 1s to 1d"),
        ("[[rule]]\nname = 'a'\ncode = '450'\nskip_host = '0s'\n", 1, "skip_host: must be from"),
        (
            "[[rule]]\nname = 'a'\ncode = '450'\nback_off = { connections_max = 0, time = '1m', deliveries = 1 }\n",
            1,
            "there are none without a connection",
        ),
        (
            "[[rule]]\nname = 'a'\ncode = '450'\naction = 'defer'\n\n[[rule]]\nname = 'a'\ncode = '451'\naction = 'defer'\n",
            6,
            "a second rule of this name",
        ),
    ];
    for (text, line, reason) in table {
        let problems = parse_rules(text).unwrap_err();
        let [problem] = problems.as_slice() else { panic!("{text}: {problems:?}") };
        assert_eq!(problem.line, line, "{text}: {problem:?}");
        assert!(problem.reason.contains(reason), "{text}: {problem:?}");
    }
}

#[test]
fn the_configuration_names_the_file_and_its_errors_name_both() {
    let directory = tempfile::tempdir().unwrap();
    let (config, rules) = (directory.path().join("c.toml"), directory.path().join("r.toml"));
    std::fs::write(&config, format!("{MINIMAL}[delivery]\nrules = '{}'\n", rules.display()))
        .unwrap();
    let refused = |part: &str| match load_with_files(&config, &facts()) {
        Err(ConfigError::Invalid { problems, .. }) => {
            assert!(problems[0].reason.contains(part), "{problems:?}");
        }
        other => panic!("{other:?}"),
    };
    refused("r.toml: No such file");
    std::fs::write(&rules, "[[rule]]\nname = 'a'\ncode = '9xx'\naction = 'defer'\n").unwrap();
    refused("r.toml:1: rule \"a\": code: \"9xx\" is not one");
    std::fs::write(&rules, "[[rule]]\nname = 'a'\ncode = '4xx'\nretry_after = '1m'\n").unwrap();
    let snapshot = load_with_files(&config, &facts()).unwrap();
    assert_eq!(snapshot.delivery_config().rules.rules.len(), 1);
}
