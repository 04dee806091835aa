"""ROMA: unpaired translation of night infrared video to daytime colour video."""
