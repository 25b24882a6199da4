"""The .ggq file: its layout, its reader and its writer."""
