"""From a request to a picture and its recipe. Nothing here knows of the page."""
