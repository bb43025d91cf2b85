"""What every room needs: errors in plain words, files written whole, the device to compute on."""
