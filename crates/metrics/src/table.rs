//! The macro that makes a struct of handles and its rows of the catalog from one table.

/// Declares a struct of handles, its catalog rows, and its registration.
///
/// One row is `field: type = "name", unit, "help";`. The help text is also the field's doc comment, so
/// that what the code says and what `/metrics` says cannot drift apart.
macro_rules! metric_table {
    (
        $(#[$meta:meta])*
        pub struct $name:ident, $rows:ident, $scope:expr;
        $( $field:ident: $handle:ty = $metric:literal, $unit:ident, $help:literal; )+
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone)]
        pub struct $name {
            $( #[doc = $help] pub $field: $handle, )+
        }

        /// The rows of the catalog that this struct counts.
        pub(crate) const $rows: &[$crate::catalog::Metric] = &[
            $( $crate::catalog::Metric {
                name: $metric,
                help: $help,
                unit: $crate::catalog::Unit::$unit,
                kind: <$handle as $crate::family::Handle>::KIND,
                scope: $scope,
                label: <$handle as $crate::family::Handle>::LABEL,
            }, )+
        ];

        impl $name {
            fn register_with(labels: &[metrics::Label]) -> Self {
                Self {
                    $( $field: <$handle as $crate::family::Handle>::register(
                        $metric,
                        labels.to_vec(),
                    ), )+
                }
            }

            /// Handles that count nothing, for tests and for code that runs without a recorder.
            pub fn noop() -> Self {
                Self { $( $field: <$handle as $crate::family::Handle>::noop(), )+ }
            }
        }
    };
}

pub(crate) use metric_table;
