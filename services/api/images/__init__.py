"""/v1/images: generation of single images, and stored images with signed links."""
