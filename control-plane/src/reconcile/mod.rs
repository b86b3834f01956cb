//! Planners: services, draining, lost hosts. Pure, but for `drive`.
