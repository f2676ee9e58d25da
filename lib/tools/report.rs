//! Evidence into the chosen renderers.
