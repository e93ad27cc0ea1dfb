"""From a bundle to a platform: what is uploaded and registered there."""
