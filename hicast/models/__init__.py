"""The nets: stock U-Net and adapters, and the small parts around them."""
